"""Webhooks: requests of remotes themselves, which bear their signature instead of a token of ours."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from reconciler.api.inbound import InboundTaken
from reconciler.api.problem import problems
from reconciler.control.carried import Asked, Carried
from reconciler.events.inbound import HUGE, FullError, NotVerifiedError, Reception, Taken, TooLargeError
from reconciler.model.ids import DNS_LABEL, Ref
from reconciler.serve.forms import to_json
from reconciler.serve.gatekeeper import serving
from reconciler.serve.parts import Parts, TheParts
from reconciler.serve.problem import ProblemError

router = APIRouter(prefix="/v1", tags=["inbound"])
_NOBODY = Ref("", "")
_NOT_VERIFIED = ProblemError(401, "not-verified", "the request could not be verified")


@router.post(
    "/inbound/{workspace}/{name}",
    summary="Take a webhook of a remote",
    status_code=202,
    responses={
        200: {"description": "The reply that the remote asks for, such as to a challenge."},
        202: {"model": InboundTaken},
        **problems(413),
    },
    response_class=Response,
    openapi_extra={
        "requestBody": {"content": {"application/json": {"schema": {}}, "application/x-www-form-urlencoded": {}}}
    },
)
async def take_webhook(request: Request, parts: TheParts, workspace: str, name: str) -> Response:
    """No token: the signature decides, of the body as it was sent. Stored before it is answered, then done.

    The same delivery a second time is answered and has no effect.
    """
    reception = serving(parts)
    ref = Ref(workspace, name) if DNS_LABEL.fullmatch(workspace) and DNS_LABEL.fullmatch(name) else _NOBODY
    taken = await _take(request, reception, ref)
    await follow_up(parts, taken)
    if taken.reply is not None:
        return Response(taken.reply.body, 200, media_type=taken.reply.media_type)
    body = {"status": "duplicate" if taken.is_repeat else "accepted", "receipt_id": taken.receipt}
    return Response(to_json(body), 202, media_type="application/json")


async def _take(request: Request, reception: Reception, ref: Ref) -> Taken:
    """Large bodies wait outside, a few at a time; one that does not say how long it is may be large."""
    if int(request.headers.get("content-length", HUGE + 1)) <= HUGE:
        return await _taken(request, reception, ref)
    if reception.huge.locked():
        message = "too many large requests at once; send it again"
        raise ProblemError(503, "queue-full", message, headers={"retry-after": "5"})
    async with reception.huge:
        return await _taken(request, reception, ref)


async def _taken(request: Request, reception: Reception, ref: Ref) -> Taken:
    try:
        return await reception.take(ref, dict(request.headers), await request.body())
    except NotVerifiedError:
        raise _NOT_VERIFIED from None
    except TooLargeError as error:
        raise ProblemError(413, "too-large", str(error)) from None
    except FullError:
        raise full() from None


def full() -> ProblemError:
    message = "too much of this integration waits to be done; send it again later"
    return ProblemError(503, "queue-full", message, headers={"retry-after": "60"})


async def follow_up(parts: Parts, taken: Taken) -> None:
    """It is stored: what it asks for starts now, not at the next look."""
    if taken.tells:
        parts.ports.told()
    if taken.run_id is not None:
        start = (Asked("sync", str(taken.run_id)),)
        await parts.ports.prompt(Carried({"receipt": taken.receipt}, start=start, kind="inbound", by="remote"))
