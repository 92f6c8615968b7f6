-- Times are UTC text with microseconds, which sorts as time. Keep equal with mysql/0001_init.up.sql.

CREATE TABLE IF NOT EXISTS `jobs` (
  `id` TEXT NOT NULL,
  `kind` TEXT NOT NULL,
  `queue` TEXT NOT NULL,
  `needs` TEXT,
  `state` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `user_id` TEXT NOT NULL,
  `request_id` TEXT NOT NULL,
  `resource` TEXT NOT NULL,
  `payload` TEXT,
  `attempt` INTEGER NOT NULL,
  `max_attempts` INTEGER NOT NULL,
  `cancel_requested` INTEGER NOT NULL,
  `lease_owner` TEXT NOT NULL,
  `lease_expires` TEXT,
  `run_after` TEXT NOT NULL,
  `progress` TEXT,
  `result` TEXT,
  `error` TEXT,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  `started_at` TEXT,
  `finished_at` TEXT,
  PRIMARY KEY (`id`)
);
CREATE INDEX IF NOT EXISTS `jobs_due` ON `jobs` (`queue`, `state`, `run_after`);
CREATE INDEX IF NOT EXISTS `jobs_project` ON `jobs` (`project_id`, `created_at`);
CREATE INDEX IF NOT EXISTS `jobs_resource` ON `jobs` (`resource`);
CREATE INDEX IF NOT EXISTS `jobs_created` ON `jobs` (`created_at`);

CREATE TABLE IF NOT EXISTS `job_logs` (
  `job_id` TEXT NOT NULL,
  `seq` INTEGER NOT NULL,
  `at` TEXT NOT NULL,
  `level` TEXT NOT NULL,
  `text` TEXT,
  PRIMARY KEY (`job_id`, `seq`)
);
CREATE INDEX IF NOT EXISTS `job_logs_at` ON `job_logs` (`at`, `job_id`, `seq`);

CREATE TABLE IF NOT EXISTS `event_ids` (
  `id` INTEGER NOT NULL,
  `last` INTEGER NOT NULL,
  PRIMARY KEY (`id`)
);

CREATE TABLE IF NOT EXISTS `events` (
  `id` INTEGER NOT NULL,
  `type` TEXT NOT NULL,
  `resource` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `request_id` TEXT NOT NULL,
  `payload` TEXT,
  `created_at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE INDEX IF NOT EXISTS `events_project` ON `events` (`project_id`, `id`);
CREATE INDEX IF NOT EXISTS `events_created` ON `events` (`created_at`);

CREATE TABLE IF NOT EXISTS `outbox` (
  `id` INTEGER PRIMARY KEY AUTOINCREMENT,
  `topic` TEXT NOT NULL,
  `key` TEXT NOT NULL,
  `body` TEXT,
  `created_at` TEXT NOT NULL,
  `claimed_until` TEXT,
  `published_at` TEXT
);
CREATE INDEX IF NOT EXISTS `outbox_open` ON `outbox` (`published_at`, `id`);

CREATE TABLE IF NOT EXISTS `families` (
  `id` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `description` TEXT NOT NULL,
  `retention` TEXT,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE UNIQUE INDEX IF NOT EXISTS `families_name` ON `families` (`project_id`, `name`);

CREATE TABLE IF NOT EXISTS `channels` (
  `family_id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `version` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  PRIMARY KEY (`family_id`, `name`)
);

CREATE TABLE IF NOT EXISTS `channel_moves` (
  `id` TEXT NOT NULL,
  `family_id` TEXT NOT NULL,
  `channel` TEXT NOT NULL,
  `seq` INTEGER NOT NULL,
  `kind` TEXT NOT NULL,
  `version` TEXT NOT NULL,
  `before` TEXT NOT NULL,
  `user_id` TEXT NOT NULL,
  `reason` TEXT NOT NULL,
  `at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE UNIQUE INDEX IF NOT EXISTS `channel_moves_seq` ON `channel_moves` (`family_id`, `channel`, `seq`);

CREATE TABLE IF NOT EXISTS `versions` (
  `id` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `family_id` TEXT NOT NULL,
  `family` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `image_id` TEXT NOT NULL,
  `parent_version` TEXT NOT NULL,
  `origin` TEXT NOT NULL,
  `origin_id` TEXT NOT NULL,
  `input_digest` TEXT NOT NULL,
  `state` TEXT NOT NULL,
  `artifacts` TEXT,
  `base` TEXT NOT NULL,
  `base_image_id` TEXT NOT NULL,
  `pinned` INTEGER NOT NULL,
  `note` TEXT NOT NULL,
  `revoked_with` TEXT NOT NULL,
  `created_at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE UNIQUE INDEX IF NOT EXISTS `versions_name` ON `versions` (`family_id`, `name`);
CREATE INDEX IF NOT EXISTS `versions_image` ON `versions` (`image_id`);
CREATE INDEX IF NOT EXISTS `versions_origin` ON `versions` (`origin_id`);
CREATE INDEX IF NOT EXISTS `versions_project` ON `versions` (`project_id`, `created_at`);

CREATE TABLE IF NOT EXISTS `version_names` (
  `family_id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `origin_id` TEXT NOT NULL,
  PRIMARY KEY (`family_id`, `name`)
);
CREATE UNIQUE INDEX IF NOT EXISTS `version_names_origin` ON `version_names` (`family_id`, `origin_id`);

CREATE TABLE IF NOT EXISTS `images` (
  `id` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `state` TEXT NOT NULL,
  `reason` TEXT NOT NULL,
  `digest` TEXT NOT NULL,
  `size` INTEGER NOT NULL,
  `facts` TEXT,
  `pending_updates` INTEGER NOT NULL,
  `lacks` TEXT,
  `pending_since` TEXT,
  `running` INTEGER NOT NULL DEFAULT 0,
  `weight` INTEGER NOT NULL DEFAULT 0,
  `rank` INTEGER NOT NULL DEFAULT 0,
  `facts_version` INTEGER NOT NULL,
  `status` TEXT NOT NULL,
  `visibility` TEXT NOT NULL,
  `tags` TEXT NULL,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE INDEX IF NOT EXISTS `images_project` ON `images` (`project_id`, `created_at`);

CREATE TABLE IF NOT EXISTS `sources` (
  `id` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `url` TEXT NOT NULL,
  `hosted` INTEGER NOT NULL,
  `ref` TEXT NOT NULL,
  `state` TEXT NOT NULL,
  `interval` TEXT NOT NULL,
  `next_sync` TEXT,
  `secret` TEXT NOT NULL,
  `commit` TEXT NOT NULL,
  `error` TEXT NOT NULL,
  `job_id` TEXT NOT NULL,
  `synced_at` TEXT,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  `pushes` INTEGER NOT NULL DEFAULT 0,
  `locks` INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (`id`)
);
CREATE UNIQUE INDEX IF NOT EXISTS `sources_name` ON `sources` (`project_id`, `name`);
CREATE INDEX IF NOT EXISTS `sources_due` ON `sources` (`next_sync`);

CREATE TABLE IF NOT EXISTS `git_refs` (
  `source_id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `hash` TEXT NOT NULL,
  PRIMARY KEY (`source_id`, `name`)
);

CREATE TABLE IF NOT EXISTS `git_packs` (
  `source_id` TEXT NOT NULL,
  `seq` INTEGER NOT NULL,
  `part` INTEGER NOT NULL,
  `sha256` TEXT NOT NULL,
  `size` INTEGER NOT NULL,
  `body` BLOB NOT NULL,
  PRIMARY KEY (`source_id`, `seq`, `part`)
);

CREATE TABLE IF NOT EXISTS `webhook_deliveries` (
  `source_id` TEXT NOT NULL,
  `delivery` TEXT NOT NULL,
  `created_at` TEXT NOT NULL,
  PRIMARY KEY (`source_id`, `delivery`)
);
CREATE INDEX IF NOT EXISTS `webhook_deliveries_created` ON `webhook_deliveries` (`created_at`);

CREATE TABLE IF NOT EXISTS `recipes` (
  `id` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `source_id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `path` TEXT NOT NULL,
  `commit` TEXT NOT NULL,
  `digest` TEXT NOT NULL,
  `spec` TEXT,
  `problems` TEXT,
  `updated_at` TEXT NOT NULL,
  `again` TEXT,
  `locks` INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (`id`)
);
CREATE UNIQUE INDEX IF NOT EXISTS `recipes_path` ON `recipes` (`source_id`, `path`);
CREATE INDEX IF NOT EXISTS `recipes_project` ON `recipes` (`project_id`, `name`);

CREATE TABLE IF NOT EXISTS `trigger_marks` (
  `recipe_id` TEXT NOT NULL,
  `kind` TEXT NOT NULL,
  `key` TEXT NOT NULL,
  `fired_at` TEXT NOT NULL,
  PRIMARY KEY (`recipe_id`, `kind`, `key`)
);

CREATE TABLE IF NOT EXISTS `builds` (
  `id` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `source_id` TEXT NOT NULL,
  `recipe_id` TEXT NOT NULL,
  `recipe` TEXT NOT NULL,
  `commit` TEXT NOT NULL,
  `family` TEXT NOT NULL,
  `state` TEXT NOT NULL,
  `force` INTEGER NOT NULL,
  `trigger` TEXT NOT NULL,
  `reason` TEXT NOT NULL,
  `user_id` TEXT NOT NULL,
  `builder` TEXT NOT NULL,
  `needs` TEXT,
  `worker` TEXT NOT NULL,
  `job_id` TEXT NOT NULL,
  `version` TEXT NOT NULL,
  `image_id` TEXT NOT NULL,
  `input_digest` TEXT NOT NULL,
  `materials` TEXT,
  `steps` TEXT,
  `error` TEXT NOT NULL,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE INDEX IF NOT EXISTS `builds_project` ON `builds` (`project_id`, `created_at`);
CREATE INDEX IF NOT EXISTS `builds_recipe` ON `builds` (`recipe_id`, `created_at`);

CREATE TABLE IF NOT EXISTS `upgrades` (
  `id` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `family` TEXT NOT NULL,
  `from_version` TEXT NOT NULL,
  `from_image_id` TEXT NOT NULL,
  `to_version` TEXT NOT NULL,
  `to_image_id` TEXT NOT NULL,
  `state` TEXT NOT NULL,
  `job_id` TEXT NOT NULL,
  `policy` TEXT,
  `campaign_id` TEXT NOT NULL,
  `report` TEXT,
  `error` TEXT NOT NULL,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE INDEX IF NOT EXISTS `upgrades_project` ON `upgrades` (`project_id`, `created_at`);
CREATE INDEX IF NOT EXISTS `upgrades_from` ON `upgrades` (`from_image_id`);
-- One version has one open upgrade, whoever asks for it at the same moment.
CREATE UNIQUE INDEX IF NOT EXISTS `upgrades_open` ON `upgrades` (`from_image_id`) WHERE `state` IN ('queued', 'running');
CREATE INDEX IF NOT EXISTS `upgrades_campaign` ON `upgrades` (`campaign_id`);

CREATE TABLE IF NOT EXISTS `campaigns` (
  `id` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `policy_id` TEXT NOT NULL,
  `filter` TEXT,
  `policy` TEXT,
  `max_parallel` INTEGER NOT NULL,
  `stop_after_failures` INTEGER NOT NULL,
  `hours` TEXT,
  `approve` INTEGER NOT NULL,
  `state` TEXT NOT NULL,
  `reason` TEXT NOT NULL,
  `open` INTEGER NOT NULL,
  `counts` TEXT,
  `spent_seconds` INTEGER NOT NULL,
  `hotfix_by` TEXT,
  `promise` TEXT NOT NULL,
  `overtime` INTEGER NOT NULL,
  `plan_job_id` TEXT NOT NULL,
  `user_id` TEXT NOT NULL,
  `request_id` TEXT NOT NULL,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  `started_at` TEXT,
  `finished_at` TEXT,
  `chosen` INTEGER NOT NULL,
  `batches` TEXT,
  `locks` INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (`id`)
);
CREATE INDEX IF NOT EXISTS `campaigns_project` ON `campaigns` (`project_id`, `created_at`);
CREATE INDEX IF NOT EXISTS `campaigns_open` ON `campaigns` (`open`);
CREATE INDEX IF NOT EXISTS `campaigns_policy` ON `campaigns` (`policy_id`, `open`);

CREATE TABLE IF NOT EXISTS `campaign_items` (
  `id` TEXT NOT NULL,
  `campaign_id` TEXT NOT NULL,
  `image_id` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `family` TEXT NOT NULL,
  `version` TEXT NOT NULL,
  `lacks` INTEGER NOT NULL,
  `cves` TEXT,
  `position` INTEGER NOT NULL,
  `batch` INTEGER NOT NULL,
  `state` TEXT NOT NULL,
  `reason` TEXT NOT NULL,
  `upgrade_id` TEXT NOT NULL,
  `held_by` TEXT NOT NULL,
  `to_version` TEXT NOT NULL,
  `to_image_id` TEXT NOT NULL,
  `started_at` TEXT,
  `finished_at` TEXT,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE UNIQUE INDEX IF NOT EXISTS `campaign_items_image` ON `campaign_items` (`campaign_id`, `image_id`);
CREATE INDEX IF NOT EXISTS `campaign_items_turn` ON `campaign_items` (`campaign_id`, `position`);
CREATE INDEX IF NOT EXISTS `campaign_items_state` ON `campaign_items` (`campaign_id`, `state`);

CREATE TABLE IF NOT EXISTS `upgrade_policies` (
  `id` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `filter` TEXT,
  `min_severity` TEXT NOT NULL,
  `hours` TEXT,
  `hotfix_hours` INTEGER NOT NULL,
  `policy` TEXT,
  `max_parallel` INTEGER NOT NULL,
  `stop_after_failures` INTEGER NOT NULL,
  `enabled` INTEGER NOT NULL,
  `enabled_at` TEXT NOT NULL,
  `campaign_id` TEXT NOT NULL,
  `user_id` TEXT NOT NULL,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  `locks` INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (`id`)
);
CREATE UNIQUE INDEX IF NOT EXISTS `upgrade_policies_name` ON `upgrade_policies` (`project_id`, `name`);

CREATE TABLE IF NOT EXISTS `upgrade_plans` (
  `image_id` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `package_kind` TEXT NOT NULL,
  `release` TEXT NOT NULL,
  `architecture` TEXT NOT NULL,
  `policy` TEXT,
  `changes` TEXT,
  `held` TEXT,
  `cves` TEXT,
  `download_bytes` INTEGER NOT NULL,
  `grows_bytes` INTEGER NOT NULL,
  `kernel` INTEGER NOT NULL,
  `boot_loader` INTEGER NOT NULL,
  `refused` TEXT NOT NULL,
  `group` TEXT NOT NULL,
  `created_at` TEXT NOT NULL,
  PRIMARY KEY (`image_id`)
);
CREATE INDEX IF NOT EXISTS `upgrade_plans_project` ON `upgrade_plans` (`project_id`, `created_at`);

CREATE TABLE IF NOT EXISTS `documents` (
  `image_id` TEXT NOT NULL,
  `kind` TEXT NOT NULL,
  `media_type` TEXT NOT NULL,
  `sha256` TEXT NOT NULL,
  `size` INTEGER NOT NULL,
  `created_at` TEXT NOT NULL,
  PRIMARY KEY (`image_id`, `kind`)
);

CREATE TABLE IF NOT EXISTS `document_parts` (
  `image_id` TEXT NOT NULL,
  `kind` TEXT NOT NULL,
  `seq` INTEGER NOT NULL,
  `body` BLOB NOT NULL,
  PRIMARY KEY (`image_id`, `kind`, `seq`)
);

CREATE TABLE IF NOT EXISTS `advisories` (
  `id` TEXT NOT NULL,
  `package` TEXT NOT NULL,
  `source` TEXT NOT NULL,
  `version` TEXT NOT NULL,
  `suite` TEXT NOT NULL,
  `security` INTEGER NOT NULL,
  `urgency` TEXT NOT NULL,
  `cves` TEXT,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE INDEX IF NOT EXISTS `advisories_package` ON `advisories` (`package`);
CREATE INDEX IF NOT EXISTS `advisories_created` ON `advisories` (`created_at`);

CREATE TABLE IF NOT EXISTS `pending` (
  `image_id` TEXT NOT NULL,
  `advisory_id` TEXT NOT NULL,
  `package` TEXT NOT NULL,
  `architecture` TEXT NOT NULL,
  `source` TEXT NOT NULL,
  `installed` TEXT NOT NULL,
  `fixed` TEXT NOT NULL,
  `suite` TEXT NOT NULL,
  `security` INTEGER NOT NULL,
  `urgency` TEXT NOT NULL,
  `gap` TEXT NOT NULL,
  PRIMARY KEY (`image_id`, `advisory_id`)
);
CREATE INDEX IF NOT EXISTS `pending_advisory` ON `pending` (`advisory_id`, `image_id`);
CREATE INDEX IF NOT EXISTS `pending_gap` ON `pending` (`gap`, `image_id`);

CREATE TABLE IF NOT EXISTS `gaps` (
  `id` TEXT NOT NULL,
  `source` TEXT NOT NULL,
  `from` TEXT NOT NULL,
  `to` TEXT NOT NULL,
  `urgency` TEXT NOT NULL,
  `cves` TEXT,
  PRIMARY KEY (`id`)
);

CREATE TABLE IF NOT EXISTS `gap_cves` (
  `cve` TEXT NOT NULL,
  `gap` TEXT NOT NULL,
  `urgency` TEXT NOT NULL,
  PRIMARY KEY (`cve`, `gap`)
);
CREATE INDEX IF NOT EXISTS `gap_cves_gap` ON `gap_cves` (`gap`);

CREATE TABLE IF NOT EXISTS `changelogs` (
  `source` TEXT NOT NULL,
  `version` TEXT NOT NULL,
  `changes` TEXT,
  `problem` TEXT NOT NULL,
  `read_at` TEXT NOT NULL,
  PRIMARY KEY (`source`, `version`)
);

CREATE TABLE IF NOT EXISTS `image_systems` (
  `image_id` TEXT NOT NULL,
  `kind` TEXT NOT NULL,
  `os` TEXT NOT NULL,
  `release` TEXT NOT NULL,
  `version_id` TEXT NOT NULL,
  `architecture` TEXT NOT NULL,
  `sum` TEXT NOT NULL,
  `compared` TEXT NOT NULL,
  PRIMARY KEY (`image_id`)
);

CREATE TABLE IF NOT EXISTS `image_packages` (
  `image_id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `architecture` TEXT NOT NULL,
  `version` TEXT NOT NULL,
  `source` TEXT NOT NULL,
  `source_version` TEXT NOT NULL,
  PRIMARY KEY (`image_id`, `name`, `architecture`, `version`)
);
CREATE INDEX IF NOT EXISTS `image_packages_name` ON `image_packages` (`name`, `image_id`, `architecture`, `version`);
CREATE INDEX IF NOT EXISTS `image_packages_source` ON `image_packages` (`source`, `image_id`, `name`, `architecture`, `version`);

CREATE TABLE IF NOT EXISTS `clusters` (
  `id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `nodes` TEXT,
  `stores` TEXT,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE UNIQUE INDEX IF NOT EXISTS `clusters_name` ON `clusters` (`name`);

CREATE TABLE IF NOT EXISTS `cluster_nodes` (
  `node` TEXT NOT NULL,
  `cluster` TEXT NOT NULL,
  PRIMARY KEY (`node`)
);
CREATE INDEX IF NOT EXISTS `cluster_nodes_cluster` ON `cluster_nodes` (`cluster`);

CREATE TABLE IF NOT EXISTS `copies` (
  `id` TEXT NOT NULL,
  `cluster` TEXT NOT NULL,
  `store` TEXT NOT NULL,
  `node` TEXT NOT NULL,
  `image_id` TEXT NOT NULL,
  `state` TEXT NOT NULL,
  `bytes` INTEGER NOT NULL,
  `digest` TEXT NOT NULL,
  `path` TEXT NOT NULL,
  `job_id` TEXT NOT NULL,
  `error` TEXT NOT NULL,
  `verified_at` TEXT,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE UNIQUE INDEX IF NOT EXISTS `copies_place` ON `copies` (`cluster`, `store`, `node`, `image_id`);
CREATE INDEX IF NOT EXISTS `copies_image` ON `copies` (`image_id`);
CREATE INDEX IF NOT EXISTS `copies_node` ON `copies` (`node`);

CREATE TABLE IF NOT EXISTS `nodes` (
  `name` TEXT NOT NULL,
  `provider_id` TEXT NOT NULL,
  `nova_host` TEXT NOT NULL,
  `zun_host` TEXT NOT NULL,
  `up` INTEGER NOT NULL,
  `disabled` INTEGER NOT NULL,
  `capacity_vcpus` INTEGER NOT NULL,
  `capacity_memory_mb` INTEGER NOT NULL,
  `capacity_disk_gb` INTEGER NOT NULL,
  `foreign_vcpus` INTEGER NOT NULL,
  `foreign_memory_mb` INTEGER NOT NULL,
  `foreign_disk_gb` INTEGER NOT NULL,
  `holds` INTEGER NOT NULL DEFAULT 0,
  `agent_seen` TEXT,
  `updated_at` TEXT NOT NULL,
  PRIMARY KEY (`name`)
);

CREATE TABLE IF NOT EXISTS `workers` (
  `name` TEXT NOT NULL,
  `host` TEXT NOT NULL,
  `arch` TEXT NOT NULL,
  `builders` TEXT,
  `labels` TEXT,
  `free_disk` INTEGER NOT NULL,
  `parallel` INTEGER NOT NULL,
  `version` TEXT NOT NULL,
  `started_at` TEXT NOT NULL,
  `seen_at` TEXT NOT NULL,
  PRIMARY KEY (`name`)
);

CREATE TABLE IF NOT EXISTS `workloads` (
  `id` TEXT NOT NULL,
  `project_id` TEXT NOT NULL,
  `user_id` TEXT NOT NULL,
  `name` TEXT NOT NULL,
  `kind` TEXT NOT NULL,
  `family` TEXT NOT NULL,
  `channel` TEXT NOT NULL,
  `version` TEXT NOT NULL,
  `image_id` TEXT NOT NULL,
  `image_ref` TEXT NOT NULL,
  `command` TEXT,
  `flavor` TEXT NOT NULL,
  `cluster` TEXT NOT NULL,
  `node` TEXT NOT NULL,
  `resources_vcpus` INTEGER NOT NULL,
  `resources_memory_mb` INTEGER NOT NULL,
  `resources_disk_gb` INTEGER NOT NULL,
  `state` TEXT NOT NULL,
  `external_id` TEXT NOT NULL,
  `note` TEXT NOT NULL,
  `error` TEXT NOT NULL,
  `job_id` TEXT NOT NULL,
  `created_at` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE INDEX IF NOT EXISTS `workloads_project` ON `workloads` (`project_id`, `created_at`);
CREATE INDEX IF NOT EXISTS `workloads_node` ON `workloads` (`node`);
CREATE INDEX IF NOT EXISTS `workloads_external` ON `workloads` (`external_id`);

CREATE TABLE IF NOT EXISTS `claims` (
  `id` TEXT NOT NULL,
  `workload_id` TEXT NOT NULL,
  `node` TEXT NOT NULL,
  `provider_id` TEXT NOT NULL,
  `consumer_id` TEXT NOT NULL,
  `resources_vcpus` INTEGER NOT NULL,
  `resources_memory_mb` INTEGER NOT NULL,
  `resources_disk_gb` INTEGER NOT NULL,
  `state` TEXT NOT NULL,
  `updated_at` TEXT NOT NULL,
  PRIMARY KEY (`id`)
);
CREATE UNIQUE INDEX IF NOT EXISTS `claims_workload` ON `claims` (`workload_id`);
CREATE INDEX IF NOT EXISTS `claims_node` ON `claims` (`node`, `state`);

INSERT INTO `event_ids` (`id`, `last`) VALUES (1, 0) ON CONFLICT DO NOTHING;
