-- In whose quota an application counts: of who made it without administering applications; of an application that was itself made so, in
-- whose quota that one counts. Nobody's of what administrators made. It stays when that principal goes.
ALTER TABLE applications ADD COLUMN charged_to uuid;
CREATE INDEX applications_charged_to ON applications (charged_to);

-- By subscription and group of resources; both are ids of something else, or empty, where what was done belongs to no group.
CREATE INDEX activity_log_group ON activity_log (split_part(resource_key, '/', 3), split_part(resource_key, '/', 5), occurred_at, event_id);
DROP INDEX activity_log_resource;
