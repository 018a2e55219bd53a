"""The three path families that clients use (OpenAI, Azure classic, Azure v1), told apart by the path alone."""

from __future__ import annotations

from enum import Enum


class Form(Enum):
    """A path family. It decides the error envelope and the shape of model lists."""

    OPENAI = "openai"
    AZURE = "azure"
    AZURE_V1 = "azure_v1"


def form_of(path: str) -> Form:
    """The family of a request path, `/accounts/{account}` before it or not. What is not Azure's is OpenAI's."""
    if path.startswith("/accounts/"):
        _, _, path = path[10:].partition("/")
        path = "/" + path.removeprefix("/")
    elif path.startswith("//openai"):
        path = path[1:]  # an SDK's, see `gateway.routes`
    if path == "/openai/v1" or path.startswith("/openai/v1/"):
        return Form.AZURE_V1
    if path == "/openai" or path.startswith("/openai/"):
        return Form.AZURE
    return Form.OPENAI
