"""The command socket of a line: triggers for its cameras, selections of its products."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from edge.cameras.supervisor import SupervisedCamera
from edge.cameras.triggering import TriggerAnswer, TriggerRequest
from edge.delivery.command_server import Answer, CommandServer
from edge.delivery.security.access import Access
from edge.util.text import utf8_safe
from edge.wire import commands


@contextlib.contextmanager
def serve_requests(address: str | None, desk: "RequestDesk", access: Access) -> Iterator[None]:
    """Take requests as long as this lasts.

    Args:
        address: None: nowhere.
    Raises:
        AccessError: others can reach the address, and the line has no key to protect it with.
        DeliveryError: it cannot be bound.
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
    """Passes each request on; the reply comes once it is done."""

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
        camera.trigger(TriggerRequest(request.part_id, lambda said: answer(_reply(request, said))))


def _reply(request: commands.TriggerRequest, said: TriggerAnswer) -> commands.Reply:
    if said.refused is not None:
        return commands.refusal(said.refused, utf8_safe(said.detail))
    if said.frame_id is None:
        return commands.Announced(camera=request.camera, part_id=request.part_id)
    return commands.Triggered(
        camera=request.camera, part_id=request.part_id, frame_id=said.frame_id, frame_number=said.frame_number
    )
