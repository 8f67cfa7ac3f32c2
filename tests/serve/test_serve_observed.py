"""A real service's metrics, at its endpoint and at Ray's agent, its log file, ids through Serve's proxy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
import ray
from serve_helpers import until

pytestmark = pytest.mark.serve
VECTOR = [1.0] + [0.0] * 31


def lines() -> list[dict]:
    """What the ingress replicas logged, a JSON object a line."""
    logs = Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"
    files = [f for f in logs.glob("replica_search_search_*.log") if f.is_file()]
    return [json.loads(line) for f in files for line in f.read_text().splitlines()]


def line_of(request_id: str) -> dict:
    found = until(lambda: [e for e in lines() if e.get("request_id") == request_id and "route" in e])
    assert len(found) == 1, found  # ours only: Serve's access log is off
    return found[0]


def test_an_id_goes_through_and_stands_in_the_log(client: httpx.Client, photos):
    reply = client.post("/v1/search", files={"image": photos[0].data}, headers={"X-Request-Id": "quoted-by-a-user"})
    assert reply.headers.get_list("x-request-id") == ["quoted-by-a-user"]
    line = line_of("quoted-by-a-user")
    assert (line["method"], line["route"], line["status"], line["levelname"]) == ("POST", "/v1/search", 200, "INFO")
    told = reply.json()
    assert (line["stages"], line["index"], line["catalog"], line["coverage"]) == (
        told["milliseconds"], told["index"], told["catalog"], told["coverage"],
    )  # fmt: skip
    assert line["milliseconds"] >= line["stages"]["total"]


def test_a_generated_id_and_a_refusal(client: httpx.Client):
    reply = client.post("/v1/search", json={"vector": VECTOR, "k": 0})
    error = reply.json()["error"]
    assert [error["request_id"]] == reply.headers.get_list("x-request-id")
    line = line_of(error["request_id"])
    assert (line["status"], line["code"]) == (422, "k_out_of_range")
    assert not {"job_id", "worker_id"} & set(line)


def test_a_bad_id_is_replaced(client: httpx.Client):
    reply = client.get("/v1/items/nobody", headers={"X-Request-Id": "a b"})
    own = reply.json()["error"]["request_id"]
    assert re.fullmatch("[0-9a-f]{32}", own)
    assert own in reply.headers.get_list("x-request-id")  # Serve's proxy repeats what was sent, too


def test_metrics_of_the_replica(client: httpx.Client):
    client.post("/v1/search", json={"vector": VECTOR}).raise_for_status()
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    index = client.get("/v1/index").json()
    found = re.search(
        r'fashion_dml_requests_total\{method="POST",replica="(\w+)",route="/v1/search",status="200"\} (\S+)', reply.text
    )
    assert found is not None, reply.text
    assert float(found[2]) >= 1
    ready = until(lambda: re.search(r"fashion_dml_ready\{.*\} 1.0", client.get("/metrics").text))
    assert found[1] in ready[0]
    text = client.get("/metrics").text
    for wanted in (
        rf'fashion_dml_index_info\{{kind="{index["kind"]}",model="{index["model"]}",.*version="{index["version"]}"\}} 1.0',
        rf"fashion_dml_index_items\{{.*\}} {float(index['items'])}",
        r'fashion_dml_stage_seconds_bucket\{le="0\.025",replica="\w+",stage="search"\} [1-9]',
        r'fashion_dml_searches_total\{query="vector",replica="\w+"\} [1-9]',
    ):
        assert re.search(wanted, text), wanted


def test_rays_agent_exports_them_all(client: httpx.Client, photos):
    """Names as `/metrics` has them, with Ray's prefix; also those of the encoder's process."""
    client.post("/v1/search", files={"image": photos[0].data}).raise_for_status()
    node = ray.nodes()[0]
    agent = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def exported() -> set[str]:
        return set(re.findall(r"^(ray_fashion_dml_\w+)\{", httpx.get(agent, timeout=30).text, re.MULTILINE))

    def own() -> set[str]:
        text = client.get("/metrics").text
        return {f"ray_{name}" for name in re.findall(r"^(fashion_dml_\w+)\{", text, re.MULTILINE)}

    until(lambda: {"ray_fashion_dml_encoder_batch_images_sum", *own()} <= exported(), seconds=90)


def test_openapi_tells_of_it(client: httpx.Client):
    told = client.get("/openapi.json").json()
    assert "request_id" in told["components"]["schemas"]["Problem"]["properties"]
    assert "text/plain" in told["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    routes = [(path, route) for path, kinds in told["paths"].items() for route in kinds.values() if path.startswith("/v1/")]
    assert [path for path, route in routes if "429" not in route["responses"]] == []
