"""Secrets: values that are read where they are used, and are in no plan, log or store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from merganser.errors import FlowError, UsageError, on_users_line


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is; only ``read`` knows what it is. See ``secret``."""

    env: str | None = None
    file: str | None = None

    def __repr__(self) -> str:
        return f"secret(env={self.env!r})" if self.env else f"secret(file={self.file!r})"

    def read(self) -> str:
        if self.env:
            value = os.environ.get(self.env)
            if value is None:
                raise UsageError(f"the environment variable {self.env} is not set; a flow takes a secret from it")
            return value
        try:
            return Path(str(self.file)).read_text().rstrip("\r\n")
        except OSError as error:
            raise UsageError(f"the secret in {self.file} cannot be read: {error.strerror}") from None


@on_users_line
def secret(*, env: str | None = None, file: str | Path | None = None) -> Secret:
    """A password or token from an environment variable or a file: ``mg.secret(env="KAFKA_PASSWORD")``."""
    if (env is None) == (file is None):
        raise FlowError("secret() takes env='NAME' or file='path', one of them")
    return Secret(env, None if file is None else str(file))
