-- In a history with a key, a row bears the key's tag, so that no one without the key can change what a
-- recovery is planned by. A row without the right tag is made anew from its object.

ALTER TABLE segments ADD COLUMN tag BLOB;
ALTER TABLE checkpoints ADD COLUMN tag BLOB;
