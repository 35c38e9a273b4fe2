"""Serves a line's command socket: triggers its cameras and selects its products."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from heatline.edge.cameras.supervisor import SupervisedCamera
from heatline.edge.cameras.triggering import TriggerAnswer, TriggerRequest
from heatline.edge.delivery.auth import Access
from heatline.edge.delivery.commands import Answer, CommandServer
from heatline.edge.util.text import utf8_safe
from heatline.edge.wire import commands


@contextlib.contextmanager
def serve_requests(address: str | None, desk: "RequestDesk", access: Access) -> Iterator[None]:
    """Serve requests until the block ends.

    Args:
        address: None: the line takes no requests.
    Raises:
        AccessError: other machines can reach the address, and the line has no key to protect it.
        DeliveryError: the address cannot be bound.
    """
    if address is None:
        yield
        return
    server = CommandServer(address, desk.handle, access)
    server.start()
    try:
        yield
    finally:
        server.close()


class RequestDesk:
    """Passes each request to the line and replies once it is done."""

    def __init__(self, cameras: Mapping[str, SupervisedCamera], select: Callable[[str, Answer], None]) -> None:
        self._cameras, self._select = cameras, select

    def handle(self, request: commands.Request, answer: Answer) -> None:
        """Pass a request on. Called by the server's thread."""
        if isinstance(request, commands.SelectRequest):
            self._select(request.product, answer)
        else:
            self._trigger(request, answer)

    def _trigger(self, request: commands.TriggerRequest, answer: Answer) -> None:
        camera = self._cameras.get(request.camera)
        if camera is None:
            known = ", ".join(sorted(self._cameras))
            answer(
                commands.refusal("unknown_camera", f"there is no camera {request.camera!r}; expected one of {known}")
            )
            return
        camera.trigger(TriggerRequest(request.part_id, lambda result: answer(_to_reply(request, result))))


def _to_reply(request: commands.TriggerRequest, result: TriggerAnswer) -> commands.Reply:
    if result.refused is not None:
        return commands.refusal(result.refused, utf8_safe(result.detail))
    if result.frame_id is None:
        return commands.Announced(camera=request.camera, part_id=request.part_id)
    return commands.Triggered(
        camera=request.camera, part_id=request.part_id, frame_id=result.frame_id, frame_number=result.frame_number
    )
