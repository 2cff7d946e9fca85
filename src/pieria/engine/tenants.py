"""Requests that wait, and whose turn it is: tenants are served by their shares. Torch-free.

A virtual token counter (Sheng et al. 2024, "Fairness in Serving Large Language Models"): who had
the fewest tokens computed, in proportion to their share, is next. One who comes back after a while
starts with the least of those who are there, so nobody saves up service. Requests of one tenant are
in the order of their ranks.

Knows waiting requests and how many run. Does not know pages or steps.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pieria.engine.request import Account, Request

Rank = Callable[[Request], tuple[Any, ...]]


class Tenants:
    """rank: of a request among those of its tenant. first: of a request before those of others."""

    def __init__(self, rank: Rank, first: Callable[[Request], int]) -> None:
        self._rank = rank
        self._first = first
        self._accounts: dict[str, Account] = {}
        self._count = 0

    def __len__(self) -> int:
        """Requests that wait."""
        return self._count

    def __iter__(self) -> Iterator[Request]:
        for account in self._accounts.values():
            yield from account.waiting

    def account(self, tenant: str, share: float) -> Account:
        """A tenant's, with its latest share."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account()
        account.share = share
        if not account.present:
            others = [a.served for a in self._accounts.values() if a.present]
            account.served = max([account.served, min(others, default=0.0)])
        return account

    def add(self, request: Request) -> None:
        insort(request.account.waiting, request, key=self._rank)
        self._count += 1

    def remove(self, request: Request) -> None:
        waiting = request.account.waiting
        del waiting[bisect_left(waiting, self._rank(request), key=self._rank)]
        self._count -= 1

    def in_turn(self, order: Callable[[Sequence[Request]], Sequence[Request]]) -> Iterator[Request]:
        """As seats are to be given, if what each of them costs is charged before the next.

        order: of one tenant's. None may be added or removed meanwhile.
        """
        queues = [
            (account, iter(order(account.waiting)))
            for account in self._accounts.values()
            if account.waiting
        ]
        heads = [(account, next(queue), queue) for account, queue in queues]
        while heads:
            head = min(heads, key=self._turn)
            yield head[1]
            heads.remove(head)
            following = next(head[2], None)
            if following is not None:
                heads.append((head[0], following, head[2]))

    def entitled(self, seats: int) -> Account | None:
        """A tenant who waits though it has fewer than its part of the seats, the next in turn."""
        waiting = [
            account
            for account in self._present()
            if account.waiting and account.running + 1 <= self._part(account, seats)
        ]
        return min(waiting, key=lambda account: account.served, default=None)

    def greediest(self, seats: int) -> Account | None:
        """The tenant who has the most seats beyond its part."""
        beyond = [(a.running - self._part(a, seats), a) for a in self._present()]
        most, account = max(beyond, key=lambda b: b[0], default=(0.0, None))
        return account if most > 0 else None

    def check(self, running: Sequence[Request]) -> None:
        """Counts and orders are right; AssertionError otherwise."""
        runs = Counter(id(request.account) for request in running)
        for account in self._accounts.values():
            assert account.running == runs[id(account)]
            ranks = [self._rank(request) for request in account.waiting]
            assert ranks == sorted(ranks)
        assert self._count == sum(len(a.waiting) for a in self._accounts.values())

    def _present(self) -> list[Account]:
        return [account for account in self._accounts.values() if account.present]

    def _part(self, account: Account, seats: int) -> float:
        """At least one."""
        whole = sum(a.share for a in self._present())
        return max(1.0, seats * account.share / whole)

    def _turn(self, head: tuple[Account, Request, Iterator[Request]]) -> tuple[float, float, int]:
        account, request, _ = head
        return self._first(request), account.served, request.arrival
