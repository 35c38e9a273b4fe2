"""Clients of a line: `Subscriber` listens live, `Follower` gets every journalled event, `Commander` sends commands.

They load ZeroMQ and msgspec, and nothing that inspects.
"""

from heatline.edge.delivery.client.commander import Commander
from heatline.edge.delivery.client.follower import Follower
from heatline.edge.delivery.client.gap_detector import Gap
from heatline.edge.delivery.client.subscriber import LineLost, NewBoot, Subscriber

__all__ = ["Commander", "Follower", "Gap", "LineLost", "NewBoot", "Subscriber"]
