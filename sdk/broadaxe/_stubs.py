"""Stubs: tasks and workflows whose code lives elsewhere, known here by name and types, to be run but not served."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, overload

from broadaxe._definition import WorkflowSettings
from broadaxe._standalone import Standalone
from broadaxe._types import EmptyModel, R, TInput
from broadaxe._workflow import Workflow

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe


class StubsClient:
    """Makes stubs. Name and types must be those of the task that a worker serves."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    @overload
    def task(
        self,
        *,
        name: str,
        input_validator: type[TInput],
        output_validator: type[R],
        default_additional_metadata: Mapping[str, Any] | None = None,
    ) -> Standalone[TInput, R]: ...
    @overload
    def task(
        self,
        *,
        name: str,
        input_validator: type[TInput],
        default_additional_metadata: Mapping[str, Any] | None = None,
    ) -> Standalone[TInput, Any]: ...
    @overload
    def task(
        self,
        *,
        name: str,
        output_validator: type[R],
        default_additional_metadata: Mapping[str, Any] | None = None,
    ) -> Standalone[EmptyModel, R]: ...
    @overload
    def task(
        self, *, name: str, default_additional_metadata: Mapping[str, Any] | None = None
    ) -> Standalone[EmptyModel, Any]: ...
    def task(
        self,
        *,
        name: str,
        input_validator: Any = None,
        output_validator: Any = Any,
        default_additional_metadata: Mapping[str, Any] | None = None,
    ) -> Standalone[Any, Any]:
        """A standalone task that some worker serves under `name`."""

        def stub(value: Any, context: Any) -> NoReturn:
            raise NotImplementedError(f"task {name!r} is a stub: its code runs on the workers that serve it")

        stub.__annotations__ = {"return": output_validator}
        settings = WorkflowSettings(
            name=name,
            input_validator=input_validator or EmptyModel,
            default_additional_metadata=default_additional_metadata or {},
        )
        return Standalone(self._client, stub, settings, {}, {})

    @overload
    def workflow(
        self,
        *,
        name: str,
        input_validator: type[TInput],
        default_additional_metadata: Mapping[str, Any] | None = None,
    ) -> Workflow[TInput]: ...
    @overload
    def workflow(
        self, *, name: str, default_additional_metadata: Mapping[str, Any] | None = None
    ) -> Workflow[EmptyModel]: ...
    def workflow(
        self,
        *,
        name: str,
        input_validator: Any = None,
        default_additional_metadata: Mapping[str, Any] | None = None,
    ) -> Workflow[Any]:
        """A workflow that some worker serves under `name`."""
        settings = WorkflowSettings(
            name=name,
            input_validator=input_validator,
            default_additional_metadata=default_additional_metadata or {},
        )
        return Workflow(self._client, settings)
