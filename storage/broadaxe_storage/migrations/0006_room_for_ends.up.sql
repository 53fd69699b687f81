-- Room on each page of live task runs for a second version of nearly all of its rows. What is triggered together ends together, and the end
-- of a task within a run is an update: at a fillfactor of 70 a third of those found no room beside the old version, and then each index got
-- another entry. Runs of one task leave by their end and need no such room; it costs them nothing but the space of what waits.
-- Only pages written from now on are affected.
ALTER TABLE task_run SET (fillfactor = 50);
