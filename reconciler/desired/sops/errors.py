"""The one error of this package. It bears a finding code; its text names places and reasons, never a value."""

from reconciler.model.finding import Code


class SopsError(Exception):
    """Why a SOPS document is refused, and how to mend it. The caller knows the file and turns this into a finding."""

    def __init__(self, code: Code, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.code}: {self.message}{f' ({self.remedy})' if self.remedy else ''}"
