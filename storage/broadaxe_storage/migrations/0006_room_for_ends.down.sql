-- Nothing recorded is lost.
ALTER TABLE task_run SET (fillfactor = 70);
