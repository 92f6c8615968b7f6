-- Every statement may be run again: MariaDB commits each one by itself, and a migration that was killed is
-- started from its beginning. Text compares by its bytes (nopad_bin), as in SQLite. Times are UTC.

CREATE TABLE IF NOT EXISTS `jobs` (
  `id` VARCHAR(64) NOT NULL,
  `kind` VARCHAR(64) NOT NULL,
  `queue` VARCHAR(255) NOT NULL,
  `needs` LONGTEXT NULL,
  `state` VARCHAR(32) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `user_id` VARCHAR(64) NOT NULL,
  `request_id` VARCHAR(64) NOT NULL,
  `resource` VARCHAR(255) NOT NULL,
  `payload` LONGTEXT NULL,
  `attempt` INT NOT NULL,
  `max_attempts` INT NOT NULL,
  `cancel_requested` BOOLEAN NOT NULL,
  `lease_owner` VARCHAR(255) NOT NULL,
  `lease_expires` DATETIME(6) NULL,
  `run_after` DATETIME(6) NOT NULL,
  `progress` LONGTEXT NULL,
  `result` LONGTEXT NULL,
  `error` LONGTEXT NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  `started_at` DATETIME(6) NULL,
  `finished_at` DATETIME(6) NULL,
  PRIMARY KEY (`id`),
  KEY `jobs_due` (`queue`, `state`, `run_after`),
  KEY `jobs_project` (`project_id`, `created_at`),
  KEY `jobs_resource` (`resource`),
  KEY `jobs_created` (`created_at`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `job_logs` (
  `job_id` VARCHAR(64) NOT NULL,
  `seq` BIGINT NOT NULL,
  `at` DATETIME(6) NOT NULL,
  `level` VARCHAR(32) NOT NULL,
  `text` LONGTEXT NULL,
  PRIMARY KEY (`job_id`, `seq`),
  KEY `job_logs_at` (`at`, `job_id`, `seq`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `event_ids` (
  `id` INT NOT NULL,
  `last` BIGINT NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `events` (
  `id` BIGINT NOT NULL,
  `type` VARCHAR(64) NOT NULL,
  `resource` VARCHAR(255) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `request_id` VARCHAR(64) NOT NULL,
  `payload` LONGTEXT NULL,
  `created_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`id`),
  KEY `events_project` (`project_id`, `id`),
  KEY `events_created` (`created_at`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `outbox` (
  `id` BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  `topic` VARCHAR(64) NOT NULL,
  `key` VARCHAR(255) NOT NULL,
  `body` LONGTEXT NULL,
  `created_at` DATETIME(6) NOT NULL,
  `claimed_until` DATETIME(6) NULL,
  `published_at` DATETIME(6) NULL,
  KEY `outbox_open` (`published_at`, `id`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `families` (
  `id` VARCHAR(64) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(64) NOT NULL,
  `description` MEDIUMTEXT NOT NULL,
  `retention` LONGTEXT NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `families_name` (`project_id`, `name`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `channels` (
  `family_id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(64) NOT NULL,
  `version` VARCHAR(64) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`family_id`, `name`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `channel_moves` (
  `id` VARCHAR(64) NOT NULL,
  `family_id` VARCHAR(64) NOT NULL,
  `channel` VARCHAR(64) NOT NULL,
  `seq` BIGINT NOT NULL,
  `kind` VARCHAR(32) NOT NULL,
  `version` VARCHAR(64) NOT NULL,
  `before` VARCHAR(64) NOT NULL,
  `user_id` VARCHAR(64) NOT NULL,
  `reason` MEDIUMTEXT NOT NULL,
  `at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `channel_moves_seq` (`family_id`, `channel`, `seq`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `versions` (
  `id` VARCHAR(64) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `family_id` VARCHAR(64) NOT NULL,
  `family` VARCHAR(64) NOT NULL,
  `name` VARCHAR(64) NOT NULL,
  `image_id` VARCHAR(64) NOT NULL,
  `parent_version` VARCHAR(64) NOT NULL,
  `origin` VARCHAR(32) NOT NULL,
  `origin_id` VARCHAR(64) NOT NULL,
  `input_digest` VARCHAR(255) NOT NULL,
  `state` VARCHAR(32) NOT NULL,
  `artifacts` LONGTEXT NULL,
  `base` VARCHAR(255) NOT NULL,
  `base_image_id` VARCHAR(64) NOT NULL,
  `pinned` BOOLEAN NOT NULL,
  `note` LONGTEXT NOT NULL,
  `revoked_with` VARCHAR(255) NOT NULL,
  `created_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `versions_name` (`family_id`, `name`),
  KEY `versions_image` (`image_id`),
  KEY `versions_origin` (`origin_id`),
  KEY `versions_project` (`project_id`, `created_at`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `version_names` (
  `family_id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(64) NOT NULL,
  `origin_id` VARCHAR(64) NOT NULL,
  PRIMARY KEY (`family_id`, `name`),
  UNIQUE KEY `version_names_origin` (`family_id`, `origin_id`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `images` (
  `id` VARCHAR(64) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `state` VARCHAR(32) NOT NULL,
  `reason` MEDIUMTEXT NOT NULL,
  `digest` VARCHAR(255) NOT NULL,
  `size` BIGINT NOT NULL,
  `facts` LONGTEXT NULL,
  `pending_updates` INT NOT NULL,
  `lacks` LONGTEXT NULL,
  `pending_since` DATETIME(6) NULL,
  `running` BIGINT NOT NULL DEFAULT 0,
  `weight` BIGINT NOT NULL DEFAULT 0,
  `rank` BIGINT NOT NULL DEFAULT 0,
  `facts_version` INT NOT NULL,
  `status` VARCHAR(32) NOT NULL,
  `visibility` VARCHAR(32) NOT NULL,
  `tags` MEDIUMTEXT NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`id`),
  KEY `images_project` (`project_id`, `created_at`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `sources` (
  `id` VARCHAR(64) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `url` MEDIUMTEXT NOT NULL,
  `hosted` BOOLEAN NOT NULL,
  `ref` VARCHAR(255) NOT NULL,
  `state` VARCHAR(32) NOT NULL,
  `interval` VARCHAR(32) NOT NULL,
  `next_sync` DATETIME(6) NULL,
  `secret` VARCHAR(255) NOT NULL,
  `commit` VARCHAR(64) NOT NULL,
  `error` MEDIUMTEXT NOT NULL,
  `job_id` VARCHAR(64) NOT NULL,
  `synced_at` DATETIME(6) NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  `pushes` BIGINT NOT NULL DEFAULT 0,
  `locks` BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (`id`),
  UNIQUE KEY `sources_name` (`project_id`, `name`),
  KEY `sources_due` (`next_sync`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `git_refs` (
  `source_id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `hash` VARCHAR(64) NOT NULL,
  PRIMARY KEY (`source_id`, `name`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `git_packs` (
  `source_id` VARCHAR(64) NOT NULL,
  `seq` BIGINT NOT NULL,
  `part` INT NOT NULL,
  `sha256` VARCHAR(64) NOT NULL,
  `size` BIGINT NOT NULL,
  `body` MEDIUMBLOB NOT NULL,
  PRIMARY KEY (`source_id`, `seq`, `part`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `webhook_deliveries` (
  `source_id` VARCHAR(64) NOT NULL,
  `delivery` VARCHAR(64) NOT NULL,
  `created_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`source_id`, `delivery`),
  KEY `webhook_deliveries_created` (`created_at`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `recipes` (
  `id` VARCHAR(64) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `source_id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `path` VARCHAR(512) NOT NULL,
  `commit` VARCHAR(64) NOT NULL,
  `digest` VARCHAR(255) NOT NULL,
  `spec` LONGTEXT NULL,
  `problems` LONGTEXT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  `again` LONGTEXT NULL,
  `locks` BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (`id`),
  UNIQUE KEY `recipes_path` (`source_id`, `path`),
  KEY `recipes_project` (`project_id`, `name`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `trigger_marks` (
  `recipe_id` VARCHAR(64) NOT NULL,
  `kind` VARCHAR(32) NOT NULL,
  `key` VARCHAR(512) NOT NULL,
  `fired_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`recipe_id`, `kind`, `key`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `builds` (
  `id` VARCHAR(64) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `source_id` VARCHAR(64) NOT NULL,
  `recipe_id` VARCHAR(64) NOT NULL,
  `recipe` VARCHAR(255) NOT NULL,
  `commit` VARCHAR(64) NOT NULL,
  `family` VARCHAR(64) NOT NULL,
  `state` VARCHAR(32) NOT NULL,
  `force` BOOLEAN NOT NULL,
  `trigger` VARCHAR(32) NOT NULL,
  `reason` LONGTEXT NOT NULL,
  `user_id` VARCHAR(64) NOT NULL,
  `builder` VARCHAR(64) NOT NULL,
  `needs` LONGTEXT NULL,
  `worker` VARCHAR(255) NOT NULL,
  `job_id` VARCHAR(64) NOT NULL,
  `version` VARCHAR(64) NOT NULL,
  `image_id` VARCHAR(64) NOT NULL,
  `input_digest` VARCHAR(255) NOT NULL,
  `materials` LONGTEXT NULL,
  `steps` LONGTEXT NULL,
  `error` MEDIUMTEXT NOT NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`id`),
  KEY `builds_project` (`project_id`, `created_at`),
  KEY `builds_recipe` (`recipe_id`, `created_at`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `upgrades` (
  `id` VARCHAR(64) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `family` VARCHAR(64) NOT NULL,
  `from_version` VARCHAR(64) NOT NULL,
  `from_image_id` VARCHAR(64) NOT NULL,
  `to_version` VARCHAR(64) NOT NULL,
  `to_image_id` VARCHAR(64) NOT NULL,
  `state` VARCHAR(32) NOT NULL,
  `job_id` VARCHAR(64) NOT NULL,
  `policy` LONGTEXT NULL,
  `campaign_id` VARCHAR(64) NOT NULL,
  `report` LONGTEXT NULL,
  `error` MEDIUMTEXT NOT NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  -- One version has one open upgrade, whoever asks for it at the same moment.
  `open_image` VARCHAR(64) GENERATED ALWAYS AS (CASE WHEN `state` IN ('queued', 'running') THEN `from_image_id` END) VIRTUAL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `upgrades_open` (`open_image`),
  KEY `upgrades_campaign` (`campaign_id`),
  KEY `upgrades_project` (`project_id`, `created_at`),
  KEY `upgrades_from` (`from_image_id`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `campaigns` (
  `id` VARCHAR(64) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(64) NOT NULL,
  `policy_id` VARCHAR(64) NOT NULL,
  `filter` LONGTEXT NULL,
  `policy` LONGTEXT NULL,
  `max_parallel` INT NOT NULL,
  `stop_after_failures` INT NOT NULL,
  `hours` LONGTEXT NULL,
  `approve` BOOLEAN NOT NULL,
  `state` VARCHAR(32) NOT NULL,
  `reason` MEDIUMTEXT NOT NULL,
  `open` BOOLEAN NOT NULL,
  `counts` LONGTEXT NULL,
  `spent_seconds` BIGINT NOT NULL,
  `hotfix_by` DATETIME(6) NULL,
  `promise` VARCHAR(32) NOT NULL,
  `overtime` BOOLEAN NOT NULL,
  `plan_job_id` VARCHAR(64) NOT NULL,
  `user_id` VARCHAR(64) NOT NULL,
  `request_id` VARCHAR(64) NOT NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  `started_at` DATETIME(6) NULL,
  `finished_at` DATETIME(6) NULL,
  `chosen` BOOLEAN NOT NULL,
  `batches` LONGTEXT NULL,
  `locks` BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (`id`),
  KEY `campaigns_project` (`project_id`, `created_at`),
  KEY `campaigns_open` (`open`),
  KEY `campaigns_policy` (`policy_id`, `open`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `campaign_items` (
  `id` VARCHAR(64) NOT NULL,
  `campaign_id` VARCHAR(64) NOT NULL,
  `image_id` VARCHAR(64) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `family` VARCHAR(64) NOT NULL,
  `version` VARCHAR(64) NOT NULL,
  `lacks` INT NOT NULL,
  `cves` LONGTEXT NULL,
  `position` INT NOT NULL,
  `batch` INT NOT NULL,
  `state` VARCHAR(32) NOT NULL,
  `reason` MEDIUMTEXT NOT NULL,
  `upgrade_id` VARCHAR(64) NOT NULL,
  `held_by` VARCHAR(64) NOT NULL,
  `to_version` VARCHAR(64) NOT NULL,
  `to_image_id` VARCHAR(64) NOT NULL,
  `started_at` DATETIME(6) NULL,
  `finished_at` DATETIME(6) NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `campaign_items_image` (`campaign_id`, `image_id`),
  KEY `campaign_items_turn` (`campaign_id`, `position`),
  KEY `campaign_items_state` (`campaign_id`, `state`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `upgrade_policies` (
  `id` VARCHAR(64) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(64) NOT NULL,
  `filter` LONGTEXT NULL,
  `min_severity` VARCHAR(32) NOT NULL,
  `hours` LONGTEXT NULL,
  `hotfix_hours` INT NOT NULL,
  `policy` LONGTEXT NULL,
  `max_parallel` INT NOT NULL,
  `stop_after_failures` INT NOT NULL,
  `enabled` BOOLEAN NOT NULL,
  `enabled_at` DATETIME(6) NOT NULL,
  `campaign_id` VARCHAR(64) NOT NULL,
  `user_id` VARCHAR(64) NOT NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  `locks` BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (`id`),
  UNIQUE KEY `upgrade_policies_name` (`project_id`, `name`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `upgrade_plans` (
  `image_id` VARCHAR(64) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `package_kind` VARCHAR(16) NOT NULL,
  `release` VARCHAR(64) NOT NULL,
  `architecture` VARCHAR(64) NOT NULL,
  `policy` LONGTEXT NULL,
  `changes` LONGTEXT NULL,
  `held` LONGTEXT NULL,
  `cves` LONGTEXT NULL,
  `download_bytes` BIGINT NOT NULL,
  `grows_bytes` BIGINT NOT NULL,
  `kernel` BOOLEAN NOT NULL,
  `boot_loader` BOOLEAN NOT NULL,
  `refused` MEDIUMTEXT NOT NULL,
  `group` VARCHAR(128) NOT NULL,
  `created_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`image_id`),
  KEY `upgrade_plans_project` (`project_id`, `created_at`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `documents` (
  `image_id` VARCHAR(64) NOT NULL,
  `kind` VARCHAR(32) NOT NULL,
  `media_type` VARCHAR(255) NOT NULL,
  `sha256` VARCHAR(64) NOT NULL,
  `size` BIGINT NOT NULL,
  `created_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`image_id`, `kind`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `document_parts` (
  `image_id` VARCHAR(64) NOT NULL,
  `kind` VARCHAR(32) NOT NULL,
  `seq` BIGINT NOT NULL,
  `body` MEDIUMBLOB NOT NULL,
  PRIMARY KEY (`image_id`, `kind`, `seq`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `advisories` (
  `id` VARCHAR(512) NOT NULL,
  `package` VARCHAR(255) NOT NULL,
  `source` VARCHAR(255) NOT NULL,
  `version` VARCHAR(255) NOT NULL,
  `suite` VARCHAR(64) NOT NULL,
  `security` BOOLEAN NOT NULL,
  `urgency` VARCHAR(32) NOT NULL,
  `cves` LONGTEXT NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`id`),
  KEY `advisories_package` (`package`),
  KEY `advisories_created` (`created_at`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `pending` (
  `image_id` VARCHAR(64) NOT NULL,
  `advisory_id` VARCHAR(512) NOT NULL,
  `package` VARCHAR(255) NOT NULL,
  `architecture` VARCHAR(64) NOT NULL,
  `source` VARCHAR(255) NOT NULL,
  `installed` VARCHAR(255) NOT NULL,
  `fixed` VARCHAR(255) NOT NULL,
  `suite` VARCHAR(64) NOT NULL,
  `security` BOOLEAN NOT NULL,
  `urgency` VARCHAR(32) NOT NULL,
  `gap` VARCHAR(32) NOT NULL,
  PRIMARY KEY (`image_id`, `advisory_id`),
  KEY `pending_advisory` (`advisory_id`, `image_id`),
  KEY `pending_gap` (`gap`, `image_id`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `gaps` (
  `id` VARCHAR(32) NOT NULL,
  `source` VARCHAR(255) NOT NULL,
  `from` VARCHAR(255) NOT NULL,
  `to` VARCHAR(255) NOT NULL,
  `urgency` VARCHAR(32) NOT NULL,
  `cves` LONGTEXT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `gap_cves` (
  `cve` VARCHAR(32) NOT NULL,
  `gap` VARCHAR(32) NOT NULL,
  `urgency` VARCHAR(32) NOT NULL,
  PRIMARY KEY (`cve`, `gap`),
  KEY `gap_cves_gap` (`gap`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `changelogs` (
  `source` VARCHAR(255) NOT NULL,
  `version` VARCHAR(255) NOT NULL,
  `changes` LONGTEXT NULL,
  `problem` LONGTEXT NOT NULL,
  `read_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`source`, `version`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `image_systems` (
  `image_id` VARCHAR(64) NOT NULL,
  `kind` VARCHAR(32) NOT NULL,
  `os` VARCHAR(64) NOT NULL,
  `release` VARCHAR(64) NOT NULL,
  `version_id` VARCHAR(64) NOT NULL,
  `architecture` VARCHAR(64) NOT NULL,
  `sum` VARCHAR(64) NOT NULL,
  `compared` VARCHAR(64) NOT NULL,
  PRIMARY KEY (`image_id`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `image_packages` (
  `image_id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `architecture` VARCHAR(64) NOT NULL,
  `version` VARCHAR(255) NOT NULL,
  `source` VARCHAR(255) NOT NULL,
  `source_version` VARCHAR(255) NOT NULL,
  PRIMARY KEY (`image_id`, `name`, `architecture`, `version`),
  KEY `image_packages_name` (`name`, `image_id`, `architecture`, `version`),
  KEY `image_packages_source` (`source`, `image_id`, `name`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `clusters` (
  `id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `nodes` LONGTEXT NULL,
  `stores` LONGTEXT NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `clusters_name` (`name`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `cluster_nodes` (
  `node` VARCHAR(255) NOT NULL,
  `cluster` VARCHAR(255) NOT NULL,
  PRIMARY KEY (`node`),
  KEY `cluster_nodes_cluster` (`cluster`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `copies` (
  `id` VARCHAR(64) NOT NULL,
  `cluster` VARCHAR(255) NOT NULL,
  `store` VARCHAR(64) NOT NULL,
  `node` VARCHAR(255) NOT NULL,
  `image_id` VARCHAR(64) NOT NULL,
  `state` VARCHAR(32) NOT NULL,
  `bytes` BIGINT NOT NULL,
  `digest` VARCHAR(255) NOT NULL,
  `path` MEDIUMTEXT NOT NULL,
  `job_id` VARCHAR(64) NOT NULL,
  `error` MEDIUMTEXT NOT NULL,
  `verified_at` DATETIME(6) NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `copies_place` (`cluster`, `store`, `node`, `image_id`),
  KEY `copies_image` (`image_id`),
  KEY `copies_node` (`node`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `nodes` (
  `name` VARCHAR(255) NOT NULL,
  `provider_id` VARCHAR(64) NOT NULL,
  `nova_host` VARCHAR(255) NOT NULL,
  `zun_host` VARCHAR(255) NOT NULL,
  `up` BOOLEAN NOT NULL,
  `disabled` BOOLEAN NOT NULL,
  `capacity_vcpus` BIGINT NOT NULL,
  `capacity_memory_mb` BIGINT NOT NULL,
  `capacity_disk_gb` BIGINT NOT NULL,
  `foreign_vcpus` BIGINT NOT NULL,
  `foreign_memory_mb` BIGINT NOT NULL,
  `foreign_disk_gb` BIGINT NOT NULL,
  `holds` BIGINT NOT NULL DEFAULT 0,
  `agent_seen` DATETIME(6) NULL,
  `updated_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`name`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `workers` (
  `name` VARCHAR(255) NOT NULL,
  `host` VARCHAR(255) NOT NULL,
  `arch` VARCHAR(64) NOT NULL,
  `builders` MEDIUMTEXT NULL,
  `labels` MEDIUMTEXT NULL,
  `free_disk` BIGINT NOT NULL,
  `parallel` BIGINT NOT NULL,
  `version` VARCHAR(255) NOT NULL,
  `started_at` DATETIME(6) NOT NULL,
  `seen_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`name`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `workloads` (
  `id` VARCHAR(64) NOT NULL,
  `project_id` VARCHAR(64) NOT NULL,
  `user_id` VARCHAR(64) NOT NULL,
  `name` VARCHAR(255) NOT NULL,
  `kind` VARCHAR(32) NOT NULL,
  `family` VARCHAR(64) NOT NULL,
  `channel` VARCHAR(64) NOT NULL,
  `version` VARCHAR(64) NOT NULL,
  `image_id` VARCHAR(64) NOT NULL,
  `image_ref` VARCHAR(512) NOT NULL,
  `command` LONGTEXT NULL,
  `flavor` VARCHAR(255) NOT NULL,
  `cluster` VARCHAR(255) NOT NULL,
  `node` VARCHAR(255) NOT NULL,
  `resources_vcpus` BIGINT NOT NULL,
  `resources_memory_mb` BIGINT NOT NULL,
  `resources_disk_gb` BIGINT NOT NULL,
  `state` VARCHAR(32) NOT NULL,
  `external_id` VARCHAR(64) NOT NULL,
  `note` MEDIUMTEXT NOT NULL,
  `error` MEDIUMTEXT NOT NULL,
  `job_id` VARCHAR(64) NOT NULL,
  `created_at` DATETIME(6) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`id`),
  KEY `workloads_project` (`project_id`, `created_at`),
  KEY `workloads_node` (`node`),
  KEY `workloads_external` (`external_id`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

CREATE TABLE IF NOT EXISTS `claims` (
  `id` VARCHAR(64) NOT NULL,
  `workload_id` VARCHAR(64) NOT NULL,
  `node` VARCHAR(255) NOT NULL,
  `provider_id` VARCHAR(64) NOT NULL,
  `consumer_id` VARCHAR(64) NOT NULL,
  `resources_vcpus` BIGINT NOT NULL,
  `resources_memory_mb` BIGINT NOT NULL,
  `resources_disk_gb` BIGINT NOT NULL,
  `state` VARCHAR(32) NOT NULL,
  `updated_at` DATETIME(6) NOT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `claims_workload` (`workload_id`),
  KEY `claims_node` (`node`, `state`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;

INSERT INTO `event_ids` (`id`, `last`) VALUES (1, 0) ON DUPLICATE KEY UPDATE `id` = `id`;
