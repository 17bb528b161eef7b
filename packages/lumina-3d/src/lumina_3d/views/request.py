"""Requests for views."""

from __future__ import annotations

from pydantic import Field

from lumina_core.request import Request


class ViewsRequest(Request):
    """Request for views of one object."""

    prompt: str = Field(max_length=2000, description="the object")
    views: int = Field(8, ge=1, le=64, description="number of views")
