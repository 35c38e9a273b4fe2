"""From requests on the command socket to whom they are for."""

from collections.abc import Callable, Mapping

from edge.cameras.supervisor import SupervisedCamera
from edge.cameras.triggering import TriggerAnswer, TriggerRequest
from edge.text import sayable
from edge.wire import commands


class RequestDesk:
    """Takes a line's requests: triggers for its cameras, selections of its products."""

    def __init__(
        self, cameras: Mapping[str, SupervisedCamera], select: Callable[[str, Callable[[commands.Reply], None]], None]
    ) -> None:
        self._cameras, self._select = cameras, select

    def handle(self, request: commands.Request, answer: Callable[[commands.Reply], None]) -> None:
        """Pass a request on; the reply comes once it is done."""
        if isinstance(request, commands.SelectRequest):
            self._select(request.product, answer)
        else:
            self._trigger(request, answer)

    def _trigger(self, request: commands.TriggerRequest, answer: Callable[[commands.Reply], None]) -> None:
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
        return commands.refusal(said.refused, sayable(said.detail))
    if said.frame_id is None:
        return commands.Announced(camera=request.camera, part_id=request.part_id)
    return commands.Triggered(
        camera=request.camera, part_id=request.part_id, frame_id=said.frame_id, frame_number=said.frame_number
    )
