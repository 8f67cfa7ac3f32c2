"""How Ray Serve is started: variables it really reads, none that the user has set, and nothing open to other machines or users."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from ray.serve._private import constants, haproxy_templates
from serve_helpers import until

from fashion_dml.config import Serve
from serve import tuning


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """os.environ without Serve's variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_SERVE")}
    monkeypatch.setattr(os, "environ", kept)
    return kept


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def test_ray_reads_every_variable(environment: dict[str, str]) -> None:
    tuning.set_environment(Serve())
    known = set(re.findall(r'"(RAY_SERVE_\w+)"', Path(constants.__file__).read_text()))
    given = {name for name in environment if name.startswith("RAY_SERVE")}
    assert "RAY_SERVE_ENABLE_HA_PROXY" in given
    assert given <= known


def test_what_the_user_has_set_stays(environment: dict[str, str]) -> None:
    environment["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
    tuning.set_environment(Serve())
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "0"


def test_rays_own_proxy_on_request_and_where_there_is_no_haproxy(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning.set_environment(Serve(proxy="python"))
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in environment
    monkeypatch.setattr(tuning, "haproxy_binary", lambda: None)
    tuning.set_environment(Serve())
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in environment
    assert environment["RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"] == "0"


def test_haproxys_files_are_this_users_alone(environment: dict[str, str]) -> None:
    tuning.set_environment(Serve())
    home = Path(environment["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    places = [v for k, v in environment.items() if re.search(r"_(PATH|LOC|BASE|FILE)$", k) and "HAPROXY" in k]
    assert len(places) == 6
    assert all(Path(place).is_relative_to(home) for place in places)


def test_figures_move_where_their_usual_ports_are_taken(environment: dict[str, str]) -> None:
    names = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT")
    tuning.set_environment(Serve())
    first = [int(environment.pop(name)) for name in names]
    held = [socket.create_server(("127.0.0.1", port)) for port in first]
    try:
        tuning.set_environment(Serve())
        second = [int(environment[name]) for name in names]
    finally:
        for one in held:
            one.close()
    assert not set(first) & set(second)
    assert all(port > 0 for port in second)


def listening() -> dict[int, set[str]]:
    """Port -> the IPv4 and IPv6 addresses, as the kernel writes them, that someone listens on."""
    found: dict[int, set[str]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A":
                address, port = local.split(":")
                found.setdefault(int(port, 16), set()).add(address)
    return found


@pytest.mark.parametrize("front", ["127.0.0.1", "*"])
def test_pages_of_figures_are_open_to_this_machine_only(front: str, environment: dict[str, str], tmp_path: Path) -> None:
    """With the very lines of Ray's template; the front stays where the settings put it."""
    assert tuning.haproxy_binary() is not None, "it comes with ray[serve] on Linux"
    public, stats, figures = free_ports(3)
    environment |= {"RAY_SERVE_HAPROXY_STATS_PORT": str(stats), "RAY_SERVE_HAPROXY_METRICS_PORT": str(figures)}
    tuning.set_environment(Serve())
    binds = re.findall(r"^ *bind .*$", haproxy_templates.HAPROXY_CONFIG_TEMPLATE, re.MULTILINE)
    values = {
        "metrics_port": figures, "stats_port": stats, "frontend_host": front, "frontend_port": public,
    }  # fmt: skip
    lines = [re.sub(r"\{\{ config\.(\w+) \}\}", lambda m: str(values.get(m[1], "?")), bind) for bind in binds]
    lines = [line for line in lines if "?" not in line]
    assert len(lines) == 3
    config = tmp_path / "haproxy.cfg"
    parts = [f"listen l{i}\n  mode http\n{line}\n" for i, line in enumerate(lines)]
    config.write_text(
        "global\n  maxconn 10\ndefaults\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n" + "".join(parts)
    )
    process = subprocess.Popen([environment["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)], env=environment)
    try:
        until(lambda: {public, stats, figures} <= set(listening()) or process.poll() is not None, 20)
        assert process.poll() is None
        found = listening()
    finally:
        process.terminate()
        process.wait()
    loopback = "0100007F"
    assert found[stats] == found[figures] == {loopback}
    assert (found[public] == {loopback}) == (front == "127.0.0.1")
