"""Events to the PLC/MES, and commands from it. docs/protocol.md, docs/durable.md and docs/commands.md are the authority.

Three clients: `Subscriber` listens live, `Follower` gets every event once it is journalled, `Commander` asks.
"""

from edge.delivery.commander import Commander
from edge.delivery.durable.follower import Follower
from edge.delivery.subscriber import Subscriber

__all__ = ["Commander", "Follower", "Subscriber"]
