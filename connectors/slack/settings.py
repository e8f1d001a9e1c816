"""What a manifest says to the Slack connector: config, credentials and the fields of its channels."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from connectors.slack.limits import too_large
from reconciler.model.secret import Secret
from reconciler.sdk.authorize import AuthorizationCode
from reconciler.sdk.contract import AuthSettings, Settings

ChannelId = Annotated[str, Field(pattern=r"^[CG][A-Z0-9]{2,}$", description="Id (C... or G...), not the name.")]
Target = Annotated[str, Field(pattern=r"^[CGDUW][A-Z0-9]{2,}$", description="Id of a channel, or of a user.")]
Mention = Annotated[str, Field(pattern=r"^(here|channel|everyone|[UWS][A-Z0-9]{2,})$")]
SCOPES = (
    "chat:write", "channels:read", "groups:read", "users:read", "users:read.email", "channels:history", "groups:history",
    "im:write", "im:history",
)  # fmt: skip
Stamp = Annotated[str, Field(pattern=r"^\d+\.\d{6}$", description="`ts` of a message.")]


class Config(Settings):
    base_url: str = Field("https://slack.com/api", pattern=r"^https?://[^/?#\s]+(/[^?#\s]*)?$")
    default_channel: Target | None = Field(None, description="Where messages go that name no channel.")
    channels: tuple[ChannelId, ...] = Field((), description="Channels whose messages and members are read.")

    @field_validator("base_url")
    @classmethod
    def _without_slash(cls, url: str) -> str:
        return url.rstrip("/")


class BotToken(AuthSettings):
    """The token of an installed app, `xoxb-...`."""

    aliases: ClassVar = ("token", "api_token", "bearer")
    type: Literal["bot_token"] = "bot_token"
    token: Secret
    signing_secret: Secret | None = Field(None, description="Verifies what Slack sends to us.")


class RotatingToken(AuthSettings):
    """An app with token rotation: `refresh_token` is the seed, its successors are kept by the daemon."""

    type: Literal["rotating_token"] = "rotating_token"
    client_id: str
    client_secret: Secret
    refresh_token: Secret
    signing_secret: Secret | None = None


class OAuth(AuthorizationCode):
    """A person's consent, asked for and kept by the daemon; tokens that rotate are renewed.

    Redirect URL at Slack, which takes https only: `<public_url>/v1/oauth/callback`.
    """

    type: Literal["oauth"] = "oauth"
    aliases: ClassVar = ("oauth_app", "oauth2")
    client_id: str = Field(description="Of the app, such as `123.456`; in quotes.")
    scopes: tuple[str, ...] = Field(SCOPES, min_length=1, description="Bot scopes.")
    pkce: bool = Field(
        False, description="Where PKCE was turned on for the app, which then is a public client for ever."
    )
    signing_secret: Secret | None = Field(None, description="Verifies what Slack sends to us.")


class IncomingWebhook(AuthSettings):
    """A URL that posts into one channel; the URL is the credential. Nothing can be read with it."""

    type: Literal["incoming_webhook"] = "incoming_webhook"
    webhook_url: Secret


class Content(Settings):
    """Text and blocks are escaped, so that a value cannot mention or link: `*bold*` works, `<!channel>` does not.

    `mentions` is how to mention; `markup: true` sends `<...>` as written, then escape values in the template.
    """

    text: str = Field("", max_length=40_000)
    blocks: tuple[dict[str, Any], ...] = Field((), max_length=50)
    mentions: tuple[Mention, ...] = Field((), description="User ids, group ids (S...), here, channel, everyone.")
    markup: bool = False

    @field_validator("blocks")
    @classmethod
    def _fit(cls, blocks: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        if wrong := "; ".join(too_large(blocks)):
            raise ValueError(wrong)
        return blocks

    @model_validator(mode="after")
    def _say_something(self) -> Self:
        if not (self.text or self.blocks or self.mentions):
            raise ValueError("the message says nothing: set template, map.text or map.blocks")
        return self


class PostMessage(Content):
    channel: Target | None = Field(None, description="Default: `config.default_channel`.")
    thread_ts: Stamp | None = None
    reply_broadcast: bool | None = None
    unfurl_links: bool | None = None


class DirectMessage(Content):
    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")


class UpdateMessage(Content):
    channel: Target
    ts: Stamp


class DeleteMessage(Settings):
    channel: Target
    ts: Stamp


class ScheduleMessage(Content):
    channel: Target | None = None
    post_at: int = Field(
        ge=1_000_000_000,
        le=9_999_999_999,
        description="Seconds (not milliseconds) since 1970; in the future, at most 120 days ahead.",
    )


class DeleteScheduledMessage(Settings):
    channel: Target
    scheduled_message_id: str = Field(pattern=r"^Q[A-Z0-9]{2,}$", description="What scheduling it answered (Q...).")


class Ephemeral(Content):
    channel: Target | None = None
    user: Annotated[str, Field(pattern=r"^[UW][A-Z0-9]{2,}$")]
