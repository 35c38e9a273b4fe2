"""Events to the PLC/MES, and commands from it. docs/protocol.md, durable.md and commands.md there are the authority.

Three clients: `Subscriber` listens live, `Follower` gets every event once it is journalled, `Commander` asks.
"""

from edge.delivery.commander import Commander
from edge.delivery.durable.follower import Follower
from edge.delivery.subscriber import Subscriber

__all__ = ["Commander", "Follower", "Subscriber"]
