"""The promises of every lease: nobody takes one that holds, and who has lost it changes nothing."""

from __future__ import annotations


class LeaseRules:
    """Checks the taking and the giving up of leases, whatever row they are of."""

    def __init__(self, log):
        self._log = log

    def check_taking(self, process, id_, until, is_next):
        """*process* leases *id_*, which was leased *until*; *is_next*: with the next token."""
        if until and until > process.clock.latest:
            self._log.violate("{} leased {}, whose lease holds until {}", process, id_, until)
        if not is_next:
            self._log.violate("the token of {} did not grow by one", id_)

    def check_giving_up(self, process, name, token, before, row, *, is_done):
        """*process* writes *name* with *token*: only while it holds the lease, which then ends."""
        holds = before is not None and before["lease_token"] == token and before["leased_until"]
        if is_done and not holds:
            self._log.violate("{} wrote {} without holding its lease", process, name)
        elif holds and not is_done:
            self._log.violate("{} holds the lease, and {} was refused", process, name)
        elif not is_done:
            self._log.add(process, "has a stale lease (token {}): {} is refused", token, name)
            if before != row:
                self._log.violate("{} had a stale lease, and {} changed the row", process, name)
        elif row["leased_until"] is not None:
            self._log.violate("{} left its row leased", name)
