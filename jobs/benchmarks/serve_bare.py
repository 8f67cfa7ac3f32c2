"""The least that FastAPI behind Ray Serve can do: what one hop of HTTP costs on this machine."""

from __future__ import annotations

from fastapi import FastAPI
from ray import serve

app = FastAPI()


@serve.deployment(name="bare", max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.1})
@serve.ingress(app)
class Bare:
    @app.get("/")
    async def nothing(self) -> dict[str, str]:
        return {"status": "ok"}


def start_bare() -> None:
    """Serve it at /bare, beside what is served already."""
    serve.run(Bare.bind(), name="bare", route_prefix="/bare")  # type: ignore[attr-defined]
