"""Health pages over HTTP: /livez, /readyz, /metrics, /status."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from infra.errors import InputError
from infra.service.loops import in_thread
from infra.telemetry import CONTENT_TYPE, PrometheusMetrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from infra.service.health import Health
    from infra.service.observing import Sampler


def health_app(health: Health, sampler: Sampler, metrics: PrometheusMetrics) -> web.Application:
    """Return the pages; a page that is not ok has status 503 and its reasons, a line each."""

    async def livez(_: web.Request) -> web.Response:
        return _verdict(health.not_alive())

    async def readyz(_: web.Request) -> web.Response:
        return _verdict(health.not_ready())

    async def figures(_: web.Request) -> web.Response:
        await in_thread(sampler.sample)
        return web.Response(body=metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    async def status(_: web.Request) -> web.Response:
        body = msgspec.json.encode(await in_thread(sampler.status))
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.add_routes([
        web.get("/livez", livez),
        web.get("/readyz", readyz),
        web.get("/metrics", figures),
        web.get("/status", status),
    ])
    return app


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[None]:
    """Serve an application until the block ends.

    Raises:
        InputError: the address cannot be used.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as err:
            raise InputError(
                f"{host}:{port}: the health pages cannot be served there ({err.strerror});"
                " choose another live.http_port, or 0 for none"
            ) from err
        yield
    finally:
        await runner.cleanup()


def _verdict(reasons: list[str]) -> web.Response:
    text = "".join(f"{reason}\n" for reason in reasons) or "ok\n"
    return web.Response(status=503 if reasons else 200, text=text)
