"""What every store must do with deleted workflows. Taken by test modules beside `store_suite`."""

import pytest

from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.records import WorkflowDeletion
from tests.conformance.store_suite import Writer
from tests.factories import TENANT, make_filter, make_finish, make_task_run, make_version, new_id, now_us


async def test_a_deleted_workflow_is_known_only_as_long_as_its_runs_live(writer: Writer) -> None:
    store = writer.store
    version, other = make_version(), make_version(name="other")
    run = make_task_run(workflow_id=version.workflow_id, workflow_version_id=version.id)
    await writer.commit(workflow_versions=[version, other], created=[run])
    assert await store.load_deleted_workflows() == []
    deletion = WorkflowDeletion(version.workflow_id, TENANT, now_us())
    await writer.commit(deleted_workflows=[deletion])
    assert await store.load_deleted_workflows(TENANT) == [version.workflow_id]
    assert await store.load_deleted_workflows(new_id()) == []
    assert {row.id for row in await store.load_latest_versions(TENANT)} == {version.id, other.id}
    await writer.commit(finished=[make_finish(run)], deleted_workflows=[deletion])
    assert await store.load_deleted_workflows() == []
    assert [row.id for row in await store.load_latest_versions(TENANT)] == [other.id]
    # Runs of the past are shown by it.
    assert await store.fetch_version(TENANT, version.id) == version


@pytest.mark.parametrize("created", [0, 300])
async def test_the_name_of_a_deleted_workflow_is_free(writer: Writer, created: int) -> None:
    version = make_version()
    await writer.commit(workflow_versions=[version])
    again = make_version(name=version.name)
    with pytest.raises(RefusedRecords):
        await writer.commit(workflow_versions=[again])
    await writer.commit(
        deleted_workflows=[WorkflowDeletion(version.workflow_id, TENANT, now_us())],
        created=[make_task_run() for _ in range(created)],
    )
    await writer.commit(workflow_versions=[again])
    assert await writer.store.load_latest_versions(TENANT) == [again]
    with pytest.raises(RefusedRecords):
        await writer.commit(workflow_versions=[make_version(name=version.name)])


async def test_filters_go_with_their_workflow(writer: Writer) -> None:
    version, other = make_version(), make_version(name="other")
    filters = [make_filter(workflow_id=row.workflow_id) for row in (version, other)]
    await writer.commit(workflow_versions=[version, other], filters=filters)
    await writer.commit(deleted_workflows=[WorkflowDeletion(version.workflow_id, TENANT, now_us())])
    assert await writer.store.load_filters(TENANT) == filters[1:]


async def test_a_deletion_of_an_unknown_or_foreign_workflow_is_refused_whole(writer: Writer) -> None:
    version = make_version()
    await writer.commit(workflow_versions=[version])
    row = make_task_run()
    for wrong in (
        WorkflowDeletion(new_id(), TENANT, now_us()),
        WorkflowDeletion(version.workflow_id, new_id(), now_us()),
    ):
        with pytest.raises(RefusedRecords) as refused:
            await writer.commit(created=[row], deleted_workflows=[wrong])
        assert refused.value.ids == (wrong.workflow_id,)
    assert await writer.store.load_live_task_runs(None, None, 10) == []
    assert await writer.store.load_latest_versions(TENANT) == [version]
