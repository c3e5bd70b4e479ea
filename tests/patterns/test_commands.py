"""Commands, crashes, replays, what was when, and rebuilds, in any order: the views are what plain Python says."""

from __future__ import annotations

import shutil
import tempfile
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, precondition, rule

import merganser as mg
from merganser import faults
from tests.event_stores import Balance, Bank, Refused, evolve, source

AMOUNTS = st.integers(-40, 60).map(lambda n: Decimal(n) / 4)


def make_flow(application: Bank) -> mg.Flow:
    flow = mg.Flow("bank")
    read = flow.read(source(application))
    read.fold(initial=Balance(), apply=evolve, history=True).materialize("accounts")
    moved = read.derive(moved="if(event_type = 'Account.Withdrawn', -amount, amount)")
    moved.group_by().aggregate(events="count(*)", money="sum(moved)").materialize("total")
    return flow


class Commands(RuleBasedStateMachine):
    """The model: every state that an account was in, and after each notification whose state it changed."""

    accounts = Bundle("accounts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = self.folder / "s.duckdb"
        self.application = Bank()
        self.flow = make_flow(self.application)
        self.states: dict[UUID, list[Balance]] = {}
        self.log: list[UUID] = []
        self.seen = 0
        """Notifications that the views have."""

    def teardown(self) -> None:
        self.application.close()
        shutil.rmtree(self.folder)

    def _happened(self, account: UUID, state: Balance) -> None:
        self.states.setdefault(account, []).append(state)
        self.log.append(account)

    def _now(self, account: UUID) -> Balance:
        return self.states[account][-1]

    # -- commands -----------------------------------------------------------------------------------------------------

    @rule(target=accounts, owner=st.text(max_size=3))
    def open(self, owner: str) -> UUID:
        account, notification = self.application.open(owner)
        self._happened(account, Balance(owner))
        assert notification == len(self.log)
        return account

    @rule(account=accounts, amount=AMOUNTS)
    def change(self, account: UUID, amount: Decimal) -> None:
        now = self._now(account)
        refused = amount < 0 and (now.closed or now.balance + amount < 0)
        try:
            notification = self.application.change(account, amount)
        except Refused:
            assert refused
            return
        self._happened(account, Balance(now.owner, now.balance + amount, now.closed))
        assert not refused and notification == len(self.log)

    @rule(giver=accounts, taker=accounts, amount=AMOUNTS.filter(lambda a: a > 0))
    def transfer(self, giver: UUID, taker: UUID, amount: Decimal) -> None:
        if giver == taker:
            return
        now, then = self._now(giver), self._now(taker)
        refused = now.closed or now.balance < amount
        try:
            self.application.transfer(giver, taker, amount)
        except Refused:
            assert refused
            return
        self._happened(giver, Balance(now.owner, now.balance - amount, now.closed))
        self._happened(taker, Balance(then.owner, then.balance + amount, then.closed))
        assert not refused

    @rule(account=accounts)
    def close(self, account: UUID) -> None:
        now = self._now(account)
        self.application.close_account(account)
        self._happened(account, Balance(now.owner, now.balance, True))

    # -- projections --------------------------------------------------------------------------------------------------

    @rule(crash=st.sampled_from([None, "step.fold", "books.before", "commit.before"]), chunk=st.sampled_from([1, 1 << 20]))
    def project(self, crash: str | None, chunk: int) -> None:
        if crash is not None and self.seen < len(self.log):
            faults.simulate(crash)
            try:
                mg.run([self.flow], self.store, chunk_bytes=chunk, epoch=0)
                raise AssertionError("it did not crash")
            except faults.Crash:
                pass
            finally:
                faults.simulate(None)
        mg.run([self.flow], self.store, chunk_bytes=chunk, epoch=0)
        self.seen = len(self.log)
        self._check()

    @precondition(lambda self: self.seen)
    @rule()
    def rebuild(self) -> None:
        before = self._content()
        mg.rebuild([self.flow], ["accounts", "total"], self.store)
        if self.seen == len(self.log):
            assert self._content() == before
        self.seen = len(self.log)
        self._check()

    @precondition(lambda self: self.seen)
    @rule(share=st.floats(0, 1), version=st.integers(1, 6))
    def look_back(self, share: float, version: int) -> None:
        past, position = mg.connect(self.store), round(share * self.seen)
        counts = {a: self.log[:position].count(a) for a in self.states}
        expected = {str(a): self.states[a][n - 1] for a, n in counts.items() if n}
        assert _balances(past.as_of("accounts", position=position)) == expected
        seen = {a: self.log[: self.seen].count(a) for a in self.states}
        expected = {str(a): self.states[a][min(n, version) - 1] for a, n in seen.items() if n}
        assert _balances(past.as_of("accounts", version=version)) == expected
        account = self.log[position - 1]
        trail = [row["state"] for row in past.history("accounts", account).arrow().to_pylist()]
        assert [Balance(**state) for state in trail] == self.states[account][: seen[account]]

    def _content(self) -> list[list[tuple[object, ...]]]:
        return [r.fetchall() for r in mg.connect(self.store).read(["FROM accounts ORDER BY ALL", "FROM total"])]

    def _check(self) -> None:
        accounts, total = mg.connect(self.store).read(["FROM accounts", "FROM total"])
        assert _balances(accounts) == {str(a): states[-1] for a, states in self.states.items()}
        money = sum((states[-1].balance for states in self.states.values()), Decimal(0))
        assert [(n, m or 0) for n, m in total.fetchall()] == ([(len(self.log), money)] if self.log else [])


def _balances(rows: mg.query.connection.Result) -> dict[str, Balance]:
    return {r["originator_id"]: Balance(r["owner"], r["balance"], r["closed"]) for r in rows.arrow().to_pylist()}


TestCommands = Commands.TestCase
TestCommands.settings = settings(max_examples=settings().max_examples // 6, stateful_step_count=15)
