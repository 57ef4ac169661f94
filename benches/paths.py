"""One way to reach a node, as a command line that a remote command is appended to."""

import dataclasses


@dataclasses.dataclass
class Path:
    """`name` is the key in figures; `roles` are the servers whose CPU time and memory it costs."""

    name: str
    what: str
    argv: list
    env: dict
    roles: tuple
    separator: tuple = ()
    terminal: tuple = ("-tt",)

    def command(self, remote, terminal=False):
        """The client's command line. `ssh` takes its options anywhere before the host, which is last in `argv`."""
        options = list(self.terminal) if terminal else []
        return [*self.argv[:-1], *options, self.argv[-1], *self.separator, remote]
