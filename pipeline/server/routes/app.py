"""The HTTP application over a `Gateway`: all routes.

Knows no socket of the ring. A group of routes is a module of this package.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from ..gateway.gateway import Gateway
from ..gateway.metrics import Metrics
from ..http.access import Access
from ..http.body_reader import BodyReader
from ..http.browser_guard import guard_middleware
from .adapter_routes import AdapterRoutes
from .answering import Answering
from .anthropic_routes import AnthropicRoutes
from .completion_routes import CompletionRoutes
from .embedding_routes import EmbeddingRoutes
from .errors import answer_bug, answer_no_route
from .generate_routes import GenerateRoutes
from .info_routes import InfoRoutes
from .model_routes import ModelRoutes
from .peer_adapter_routes import PeerAdapterRoutes
from .profiler_routes import ProfilerRoutes
from .responses_routes import ResponsesRoutes
from .route_guard import RouteGuard
from .scheduler_routes import SchedulerRoutes
from .status_routes import StatusRoutes
from .token_routes import TokenRoutes


def make_app(gateway: Gateway) -> Starlette:
    """The routes over one `Gateway`."""
    access = Access(gateway.config, gateway.report)
    bodies = BodyReader(gateway.config.max_body_mib << 20)
    metrics = Metrics(gateway, access)
    answering = Answering(gateway)
    guard = RouteGuard(gateway, access)
    groups = (
        ModelRoutes(gateway),
        InfoRoutes(answering),
        CompletionRoutes(answering, bodies),
        ResponsesRoutes(answering, bodies),
        AnthropicRoutes(answering, bodies),
        EmbeddingRoutes(answering, bodies),
        TokenRoutes(answering, bodies),
        GenerateRoutes(answering, bodies),
        AdapterRoutes(gateway, bodies),
        PeerAdapterRoutes(gateway, bodies),
        SchedulerRoutes(gateway, bodies),
        ProfilerRoutes(gateway, bodies),
    )
    routes = StatusRoutes(gateway, metrics).routes()
    for group in groups:
        routes += group.routes(guard)
    return Starlette(
        routes=routes,
        middleware=guard_middleware(gateway.config),
        exception_handlers={HTTPException: answer_no_route, Exception: answer_bug},
    )
