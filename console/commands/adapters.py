"""The list of adapters, and orders about them."""

# No future import of annotations: as objects they need not be evaluated for the parser.

from typing import Annotated

from ...pipeline.messages import (
    AdapterOrder,
    LoadAdapter,
    MergeAdapter,
    PinAdapter,
    PlanAdapters,
    ReloadAdapter,
    UnloadAdapter,
    VerifyAdapter,
)
from ...pipeline.order_id import make_order_id
from ...pipeline.run_directory import absolute_path
from .argument import Argument
from .base import Against, AgainstTokens, PipelineCommand


class ListAdaptersCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "list"
    HELP = "list all, with their requests and tokens (the default)"


class AdapterCommand(PipelineCommand, frozen=True, kw_only=True):
    """Base of the orders about adapters; `order` makes the message for the router."""

    def order(self, reply_to: str) -> AdapterOrder:
        """The message, with a new id; the reply goes to the inbox `reply_to`."""
        raise NotImplementedError


class NamedAdapterCommand(AdapterCommand, frozen=True, kw_only=True):
    """Base of the orders about one existing adapter."""

    name: Annotated[str, Argument(metavar="NAME", is_positional=True)]


class LoadCommand(AdapterCommand, frozen=True, kw_only=True):
    NAME = "load"
    HELP = "serve a PEFT directory under a name"
    name: Annotated[str, Argument(metavar="NAME", is_positional=True)]
    path: Annotated[
        str,
        Argument("its directory, or org/name on the hub", metavar="PATH", is_positional=True),
    ]
    pin: Annotated[bool, Argument("never evict it, even while no request uses it")] = False

    def order(self, reply_to: str) -> LoadAdapter:
        return LoadAdapter(
            order=make_order_id(),
            reply_to=reply_to,
            name=self.name,
            path=absolute_path(self.path),
            pinned=self.pin,
        )


class UnloadCommand(NamedAdapterCommand, frozen=True, kw_only=True):
    NAME = "unload"
    HELP = "refuse new requests for it; return when its pages are free"

    def order(self, reply_to: str) -> UnloadAdapter:
        return UnloadAdapter(order=make_order_id(), reply_to=reply_to, name=self.name)


class ReloadCommand(NamedAdapterCommand, frozen=True, kw_only=True):
    NAME = "reload"
    HELP = "re-read its files; running requests finish on the old weights"

    def order(self, reply_to: str) -> ReloadAdapter:
        return ReloadAdapter(order=make_order_id(), reply_to=reply_to, name=self.name)


class PinCommand(NamedAdapterCommand, frozen=True, kw_only=True):
    NAME = "pin"
    HELP = "never evict it, even while no request uses it"

    def order(self, reply_to: str) -> PinAdapter:
        return PinAdapter(order=make_order_id(), reply_to=reply_to, name=self.name, pinned=True)


class UnpinCommand(NamedAdapterCommand, frozen=True, kw_only=True):
    NAME = "unpin"
    HELP = "allow eviction when it is idle and its pages are needed"

    def order(self, reply_to: str) -> PinAdapter:
        return PinAdapter(order=make_order_id(), reply_to=reply_to, name=self.name, pinned=False)


class MergeCommand(NamedAdapterCommand, frozen=True, kw_only=True):
    NAME = "merge"
    HELP = "merge it into a copy of the weights, for steps that use it alone"

    def order(self, reply_to: str) -> MergeAdapter:
        return MergeAdapter(order=make_order_id(), reply_to=reply_to, name=self.name)


class VerifyCommand(NamedAdapterCommand, frozen=True, kw_only=True):
    NAME = "verify"
    HELP = "compare its answers with weights merged in float32; exit 1 if they differ"
    against: Against = None
    tokens: AgainstTokens = 16

    def order(self, reply_to: str) -> VerifyAdapter:
        return VerifyAdapter(order=make_order_id(), reply_to=reply_to, name=self.name)


class UnmergeCommand(AdapterCommand, frozen=True, kw_only=True):
    NAME = "unmerge"
    HELP = "drop the copy with the merged adapter"

    def order(self, reply_to: str) -> MergeAdapter:
        return MergeAdapter(order=make_order_id(), reply_to=reply_to, name="")


class PlanCommand(AdapterCommand, frozen=True, kw_only=True):
    NAME = "plan"
    HELP = "pages and KV that loads would take; exit 1 if one would be refused"
    paths: Annotated[
        tuple[str, ...],
        Argument("adapter directories", metavar="PATH", is_positional=True),
    ]

    def order(self, reply_to: str) -> PlanAdapters:
        paths = tuple(absolute_path(path) for path in self.paths)
        return PlanAdapters(order=make_order_id(), reply_to=reply_to, paths=paths)
