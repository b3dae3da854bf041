"""Two hosts on this machine: network namespaces with an address each, and a link between them."""

import subprocess
from dataclasses import dataclass

ADDRESSES = ("10.77.0.1", "10.77.0.2")
INTERFACE = "link0"  # not `eth0`: nothing may rely on a usual name


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class TwoHosts:
    """Namespaces `name`a and `name`b; a program in one reaches the other over `INTERFACE` alone."""

    name: str  # of at most 10 characters

    @property
    def hosts(self) -> tuple[str, str]:
        return f"{self.name}a", f"{self.name}b"

    def inside(self, host: int) -> list[str]:
        """Return the words before a command that make it run on this host."""
        return ["ip", "netns", "exec", self.hosts[host]]

    def make(self) -> None:
        ends = [f"{self.name}{end}" for end in "yz"]
        for host in self.hosts:
            ip("netns", "add", host)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for host, end, address in zip(self.hosts, ends, ADDRESSES, strict=True):
            ip("link", "set", end, "netns", host)
            ip("-n", host, "link", "set", end, "name", INTERFACE)
            ip("-n", host, "address", "add", f"{address}/24", "dev", INTERFACE)
            ip("-n", host, "link", "set", "lo", "up")
        self.mend()

    def cut(self) -> None:
        """Drop all packets from now on, silently."""
        ip("-n", self.hosts[1], "link", "set", INTERFACE, "down")

    def mend(self) -> None:
        for host in self.hosts:
            ip("-n", host, "link", "set", INTERFACE, "up")

    def remove(self) -> None:
        for host in self.hosts:
            subprocess.run(["ip", "netns", "delete", host], check=False, capture_output=True)
