"""Idempotency keys: a trigger's runs claim theirs before they are made (behaviour-core 4.6). A part of `Creation`."""

import logging

from broadaxe_actors import cel
from broadaxe_actors.claims import KeyRequest
from broadaxe_actors.creation.births import Births
from broadaxe_actors.creation.job import Job
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import IdempotencyCollision, IdempotencyCollisions

logger = logging.getLogger(__name__)


class KeyClaims(Births):
    """See the module."""

    def _claim_keys(self, number: int, job: Job) -> None:
        """Idempotency keys, for the workflows that have an expression for them (behaviour-core 4.6)."""
        if not any(version.idempotency is not None for version in job.versions):
            self._t.create_slice(number)
            return
        apart: list[tuple[int, cel.Expression, dict[str, bytes | str]]] = []
        for index, version in enumerate(job.versions):
            if version.idempotency is None or index in job.taken or job.run_ids[index] in job.existing:
                continue
            if self._is_made(job.run_ids[index]):
                continue  # it claimed its key when it was made
            values = self._key_values(job, index)
            if version.idempotency.is_cheap(values):
                try:
                    self._ask_key(job, index, version.idempotency.evaluate(values))
                except cel.EvaluationFailed as error:
                    if self._is_refused_for(number, index, error):
                        return
            else:
                apart.append((index, version.idempotency, values))
        if apart:
            self._t.fetch(self._evaluate_keys, apart, then=self._t.me.keys_evaluated, context=number)
        else:
            self._send_keys(number, job)

    async def _evaluate_keys(
        self, apart: list[tuple[int, cel.Expression, dict[str, bytes | str]]]
    ) -> list[tuple[int, object]]:
        """Each value, or the error in its place."""
        found: list[tuple[int, object]] = []
        for index, expression, values in apart:
            try:
                found.append((index, await self._t._evaluator.evaluate_apart(expression, values)))
            except cel.EvaluationFailed as error:
                found.append((index, error))
        return found

    def keys_evaluated(self, number: int, found: list[tuple[int, object]]) -> None:
        """Expressions that were evaluated outside of this process have their values."""
        job = self._jobs[number]
        for index, value in found:
            if not isinstance(value, cel.EvaluationFailed):
                self._ask_key(job, index, value)
            elif self._is_refused_for(number, index, value):
                return
        self._send_keys(number, job)

    def _key_values(self, job: Job, index: int) -> dict[str, bytes | str]:
        return {"input": job.runs[index].input or b"{}", "additional_metadata": job.metadata_of(index)}

    def _ask_key(self, job: Job, index: int, key: object) -> None:
        settings = job.versions[index].definition.idempotency
        assert settings is not None
        expires_at = self._t.clock.now() + settings["ttl_ms"] * 1000
        job.keys[index] = KeyRequest(str(key), job.run_ids[index], expires_at)

    def _is_made(self, run_id: str) -> bool:
        """Whether memory knows that a run exists."""
        tracker = self._t
        return run_id in tracker._live or run_id in tracker._runs or tracker._recent.has_ended(run_id)

    def _is_refused_for(self, number: int, index: int, error: cel.EvaluationFailed) -> bool:
        """A run without a key is not created. A trigger is refused for it; an event, which may start others too, is not."""
        job = self._jobs[number]
        text = f"workflow {job.runs[index].workflow_name!r}: its idempotency key could not be told: {error}"
        if job.reply is not None:
            logger.warning("tenant %s: an event starts no run: %s", self._t._tenant_id, text)
            job.left_out.add(index)
            return False
        self._drop(number)
        self._forget(job)
        self._refuse(job, Refused(Code.INVALID_ARGUMENT, text))
        return True

    def _send_keys(self, number: int, job: Job) -> None:
        if job.keys:
            self._t._claims.claim_keys.send(number, tuple(job.keys.values()))
        else:
            self._t.create_slice(number)

    def keys_claimed(self, number: int, owners: tuple[str, ...]) -> None:
        """`Claims` says whose run each key names; a run whose key another holds is not created."""
        job = self._jobs[number]
        for (index, request), owner in zip(list(job.keys.items()), owners, strict=True):
            if owner != request.run_id:
                job.collisions.append(IdempotencyCollision(owner, request.run_id))
                job.left_out.add(index)
                del job.keys[index]
        self._t.create_slice(number)

    def _collisions(self, job: Job) -> IdempotencyCollisions:
        lost = {item.colliding_run_id for item in job.collisions}
        created = tuple(run_id for run_id in job.run_ids if run_id not in lost)
        return IdempotencyCollisions(created, tuple(job.collisions))

    def _forget(self, job: Job) -> None:
        """Take back what earlier stages of a refused trigger put in memory; nothing was recorded.

        What an earlier trigger of the same run ids has claimed is that run's, and stays.
        """
        tracker = self._t
        unclaimed = tuple(
            (request.parent_task_run_id, request.key, request.run_id)
            for index, request in job.claims
            if index not in job.taken and not self._is_made(request.run_id)
        )
        if unclaimed:
            tracker._claims.unclaim.send(unclaimed)
        keys = tuple(
            (request.key, request.run_id)
            for request in job.keys.values()
            if not self._is_made(request.run_id)
        )
        if keys:
            tracker._claims.unclaim_keys.send(keys)
        for row in job.rows:
            self._take_back(row)


def collided(detail: IdempotencyCollisions) -> Refused:
    """The refusal of a trigger of which some runs were left out for their idempotency keys."""
    # Clients compare this text literally (behaviour-core 4.6).
    return Refused(Code.ALREADY_EXISTS, "idempotency key collision", detail)
