"""Orders about adapters: who is told what came of them, and what the command line makes of them."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stage import START

from loraconsole.console.__main__ import report
from loraconsole.console.cli import adapters
from loraconsole.console.client.pending_orders import (
    QUICK_SECONDS,
    SLOW_SECONDS,
    PendingOrders,
)
from loraconsole.console.commands.adapters import AdapterCommand, VerifyCommand
from loraconsole.console.commands.parser import parse
from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.state.store import Store
from loraconsole.pipeline.errors import UsageError
from loraconsole.pipeline.messages import (
    AdapterOrder,
    AdapterReply,
    AdapterTable,
    LoadAdapter,
    MergeAdapter,
    PinAdapter,
    PlanAdapters,
    ReloadAdapter,
    UnloadAdapter,
    VerifyAdapter,
)
from loraconsole.pipeline.runtime.sockets import InboxFull


class MainScreen:
    """`PendingOrders` with a store that has heard a ring, and a clock set by hand."""

    def __init__(self) -> None:
        self.now = START + 3
        self.scenario = Scenario("busy", start=START)
        self.store = Store("/run/here")
        self.hear()
        self.sent: list[AdapterOrder] = []
        self.told: list[AdapterReply] = []
        self.is_forgotten = False
        self.orders = PendingOrders(
            self.store,
            "console-1",
            send=self.sent.append,
            forget=self._forget,
            tell=lambda order, reply: self.told.append(reply),
            clock=lambda: self.now,
        )

    def _forget(self) -> None:
        self.is_forgotten = True

    def hear(self) -> None:
        for _, message in self.scenario.advance(self.now):
            self.store.fold_message(message, self.now)

    def give(self, kind: Any, number: str = "1", **fields: Any) -> AdapterOrder:
        order: AdapterOrder = kind(order=number, reply_to=self.orders.inbox, **fields)
        self.orders.give(order)
        return order

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.hear()
        self.orders.sweep()


@pytest.fixture
def desk() -> MainScreen:
    return MainScreen()


def reply(number: str, status: int = 200, name: str = "pirate", **more: Any) -> AdapterReply:
    return AdapterReply(order=number, status=status, text="done", at=START + 60, name=name, **more)


# --- who is told --------------------------------------------------------------------------------


def test_an_answer_goes_to_who_asked_and_to_nobody_else(desk: MainScreen) -> None:
    heard: list[tuple[str, AdapterReply]] = []

    def listener(who: str) -> Any:
        return lambda answer: heard.append((who, answer)) or True

    for number, name in (("1", "pirate"), ("2", "sql")):
        order = ReloadAdapter(order=number, reply_to="console-1", name=name)
        desk.orders.give(order, listener(name))
    desk.orders.answered(reply("2", name="sql"))
    assert [who for who, _ in heard] == ["sql"] and desk.told == []
    desk.orders.answered(reply("1"))
    assert [who for who, _ in heard] == ["sql", "pirate"]


def test_what_no_listener_shows_is_told(desk: MainScreen) -> None:
    desk.give(ReloadAdapter, name="pirate")
    desk.orders.answered(reply("1"))
    desk.orders.answered(reply("another console's, or given up"))
    assert len(desk.told) == 2


def test_a_row_says_what_is_done_to_it_until_it_is_answered(desk: MainScreen) -> None:
    desk.give(VerifyAdapter, "1", name="pirate")
    desk.give(PinAdapter, "2", name="pirate", pinned=True)
    desk.give(PlanAdapters, "3", paths=("/x",))
    assert desk.store.board(desk.now).orders == {"pirate": "pinning"}
    desk.orders.answered(reply("2"))
    assert desk.store.board(desk.now).orders == {"pirate": "verifying"}
    assert desk.orders.is_verifying("pirate") and not desk.orders.is_verifying("sql")
    desk.orders.answered(reply("1"))
    assert desk.store.board(desk.now).orders == {}


def test_who_ordered_does_not_see_an_older_row(desk: MainScreen) -> None:
    names = [row.name for row in desk.store.board(desk.now).adapters]
    row = desk.store.board(desk.now).adapters[1]
    desk.give(PinAdapter, name="pirate", pinned=False)
    new = msgspec.structs.replace(row.view, pinned=False)
    desk.orders.answered(reply("1", adapters=(new,)))
    board = desk.store.board(desk.now)
    assert [row.name for row in board.adapters] == names and not board.adapters[1].view.pinned
    two = (msgspec.structs.replace(new, generation=2), new)  # the old one is draining
    desk.give(ReloadAdapter, "2", name="pirate")
    desk.orders.answered(reply("2", adapters=two))
    assert [row.view.generation for row in desk.store.board(desk.now).adapters[1:4]] == [2, 1, 1]
    desk.give(UnloadAdapter, "3", name="pirate")
    desk.orders.answered(reply("3"))
    assert "pirate" not in [row.name for row in desk.store.board(desk.now).adapters]


def test_a_newer_table_is_not_undone_by_an_older_answer(desk: MainScreen) -> None:
    row = desk.store.board(desk.now).adapters[1]
    old = msgspec.structs.replace(reply("1"), at=START - 60, adapters=(row.view,) * 3)
    desk.orders.answered(old)
    assert len(desk.store.board(desk.now).adapters) == 5


def test_a_verdict_is_kept_for_who_looks_later(desk: MainScreen) -> None:
    order = desk.give(VerifyAdapter, name="haiku")
    answer = desk.scenario.obey(order)
    assert answer is not None
    desk.orders.answered(answer)
    verdict = desk.store.board(desk.now).verifications["haiku"]
    assert not verdict.verification.is_right and desk.told == [answer]


# --- answers that never come --------------------------------------------------------------------


def test_without_a_router_an_order_ends_at_once(desk: MainScreen) -> None:
    desk.now += 60
    desk.give(ReloadAdapter, name="pirate")
    assert desk.sent == [] and desk.told[0].status == 503
    assert "not running" in desk.told[0].text


def test_an_inbox_that_is_full_ends_it_too(desk: MainScreen) -> None:
    def refuse(order: AdapterOrder) -> None:
        raise InboxFull("router has not drained its inbox")

    desk.orders._send = refuse
    desk.give(ReloadAdapter, name="pirate")
    assert "drained" in desk.told[0].text and desk.store.board(desk.now).orders == {}


def test_a_router_that_was_restarted_gets_the_order_again(desk: MainScreen) -> None:
    """It carries out an order once, however often it comes; its time begins again."""
    order = desk.give(PinAdapter, name="pirate", pinned=True)
    desk.pass_time(QUICK_SECONDS - 3)
    assert desk.sent == [order]
    desk.scenario.restart("router")
    desk.pass_time(2.0)
    desk.pass_time(2.0)
    assert desk.sent == [order, order] and desk.told == []
    desk.pass_time(QUICK_SECONDS - 3)
    assert desk.told == [] and desk.orders.is_pending(order.order)
    desk.pass_time(2.0)
    assert desk.told[0].status == 504 and desk.is_forgotten
    assert not desk.orders.is_pending(order.order)
    desk.orders.answered(reply(order.order))  # late, but told
    desk.orders.answered(reply(order.order))  # and once
    assert len(desk.told) == 2


@pytest.mark.parametrize(
    ("kind", "fields", "seconds"),
    [
        (PlanAdapters, {"paths": ("/x",)}, QUICK_SECONDS),
        (PinAdapter, {"name": "sql", "pinned": True}, QUICK_SECONDS),
        (LoadAdapter, {"name": "sql", "path": "/x"}, SLOW_SECONDS),
    ],
)
def test_an_order_ends_after_a_time(
    desk: MainScreen, kind: Any, fields: dict[str, Any], seconds: float
) -> None:
    desk.give(kind, **fields)
    desk.now += seconds - 1
    desk.orders.sweep()
    assert desk.told == []
    desk.now += 2
    desk.orders.sweep()
    assert [answer.status for answer in desk.told] == [504]


# --- the command line ---------------------------------------------------------------------------


def made(*arguments: str) -> AdapterOrder:
    command = parse(["adapters", *arguments])
    assert isinstance(command, AdapterCommand)
    return command.order("console-7")


def test_every_verb_makes_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    load = made("load", "sql", "mine", "--pin")
    assert isinstance(load, LoadAdapter) and load.pinned and load.path == str(tmp_path / "mine")
    assert load.reply_to == "console-7" and load.order
    hub = made("load", "sql", "somebody/sql-lora")
    assert isinstance(hub, LoadAdapter) and hub.path == "somebody/sql-lora" and not hub.pinned
    plan = made("plan", "mine", "./gone", "somebody/sql-lora")
    assert isinstance(plan, PlanAdapters)
    assert plan.paths == (str(tmp_path / "mine"), str(tmp_path / "gone"), "somebody/sql-lora")
    for verb, kind, more in (
        ("unload", UnloadAdapter, {}),
        ("reload", ReloadAdapter, {}),
        ("pin", PinAdapter, {"pinned": True}),
        ("unpin", PinAdapter, {"pinned": False}),
        ("merge", MergeAdapter, {}),
        ("verify", VerifyAdapter, {}),
    ):
        order = made(verb, "sql")
        assert isinstance(order, kind) and order.name == "sql"
        assert all(getattr(order, name) == value for name, value in more.items())
    unmerge = made("unmerge")
    assert isinstance(unmerge, MergeAdapter) and unmerge.name == ""


@pytest.mark.parametrize("arguments", [["plan"], ["verify"], ["pin"], ["unmerge", "sql"], ["what"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        parse(["adapters", *arguments])
    assert report(refused.value, as_json=False) == 2


def test_json_is_asked_for_on_either_side_of_the_verb() -> None:
    assert parse(["adapters", "plan", "x", "--json"]).as_json
    assert parse(["adapters", "--json", "plan", "x"]).as_json


def table(adapters: int) -> AdapterTable:
    scenario = Scenario("busy", start=START, adapters=adapters)
    told = [message for _, message in scenario.advance(START + 3)]
    return [message for message in told if isinstance(message, AdapterTable)][-1]


def test_the_list_shows_marks_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    adapters.print_table(table(4))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["adapter", "state", "device"]
    rows = {line.split()[0]: line for line in lines}
    assert " pinned " in rows["pirate"] and " merged " in rows["sql"]
    assert " pinned " not in rows["sql"]
    assert lines[-1] == "json: its files are older than this base model"
    assert len({line.rindex(" on device ") for line in lines[2:6]}) == 1  # columns stand upright


def test_a_thousand_adapters_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    found = table(1000)
    adapters.print_table(found)
    assert len(capsys.readouterr().out.splitlines()) == 1003


def test_plans_are_printed_and_a_refused_one_is_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    order = PlanAdapters(order="1", reply_to="", paths=("/good", "/large", "/missing[x]"))
    answer = Scenario("busy", start=START).obey(order)
    assert answer is not None
    assert adapters.print_plans(answer.plans[:2], False) == 0
    text = capsys.readouterr().out
    assert "512" in text and "sql, json" in text and "q,k,v,o" in text
    assert "/large: no room now" in text and "/large: a rank above 128 is slow" in text
    assert adapters.print_plans(answer.plans, False) == 1
    assert "/missing[x]: refused: no adapter_config.json" in capsys.readouterr().out
    assert adapters.print_plans(answer.plans, True) == 1
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert [plan["pages"] for plan in plans] == [32, 3840, 0]


@pytest.mark.parametrize(("name", "code"), [("pirate", 0), ("haiku", 1)])
def test_a_verdict_is_printed_and_is_the_status(
    name: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    order = VerifyAdapter(order="1", reply_to="", name=name)
    answer = Scenario("busy", start=START).obey(order)
    assert answer is not None and answer.verification is not None
    assert adapters.print_verification(answer.verification, name, False) == code
    text = capsys.readouterr().out
    assert "mean |Δlogit|   limit" in text and "0.0206" in text and "base" in text
    assert "15/16" in text  # passes all the same
    assert ("NO " in text) is (code == 1) and ("NOT match" in text) is (code == 1)
    assert adapters.print_verification(answer.verification, name, True) == code
    found = json.loads(capsys.readouterr().out)
    assert found["verification"]["is_right"] is (code == 0)
    assert found["verification"]["comparisons"][0]["tokens"] == 16


def test_each_order_has_an_id_of_its_own() -> None:
    command = VerifyCommand(name="sql")
    assert command.order("console-7").order != command.order("console-7").order
