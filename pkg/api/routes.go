package api

import (
	"net/http"
	"strings"
)

const eventsPath = "/v1/events"

// public are the routes without a token.
func (a *api) public() []route {
	return []route{
		open(http.MethodGet, "/", a.showVersions),
		open(http.MethodGet, "/v1", a.showVersion),
		open(http.MethodGet, "/v1/", a.showVersion),
		open(http.MethodGet, "/v1/openapi.yaml", a.showSpecification),
		open(http.MethodGet, "/healthcheck", a.showHealth),
		open(http.MethodHead, "/healthcheck", a.showHealth),
		open(http.MethodGet, "/metrics", a.showMetrics),
		open(http.MethodGet, "/v1/proof/keys", a.listProofKeys),
		open(http.MethodPost, "/v1/webhooks/{id}", a.takeWebhook),
	}
}

// routes is the whole API: method, path, policy rule (behind "provisioning:"), handler.
// A list names the keys that it filters by, and those that it sorts by.
func (a *api) routes() []route {
	const get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete
	return []route{
		on(get, "/v1/sources", "sources:list", a.listSources).lists("name state", "name state created_at updated_at"),
		on(post, "/v1/sources", "sources:create", a.createSource),
		on(get, "/v1/sources/{id}", "sources:show", a.showSource),
		on(del, "/v1/sources/{id}", "sources:delete", a.deleteSource),
		on(post, "/v1/sources/{id}/sync", "sources:sync", a.syncSource),
		on(post, "/v1/sources/{id}/secret", "sources:secret", a.renewSecret),
		gits(get, gitPath+"{project_id}/{name}/info/refs", "sources:fetch", a.showRefs).takes("service"),
		gits(post, gitPath+"{project_id}/{name}/git-upload-pack", "sources:fetch", a.uploadPack),
		gits(post, gitPath+"{project_id}/{name}/git-receive-pack", "sources:push", a.receivePack),
		on(get, "/v1/recipes", "recipes:list", a.listRecipes).lists("source_id name", "name path updated_at"),
		on(post, "/v1/recipes/validate", "recipes:validate", a.validateRecipe),
		on(get, "/v1/recipes/{id}", "recipes:show", a.showRecipe),
		on(get, "/v1/recipes/schema", "recipes:schema", a.showRecipeSchema),
		on(post, "/v1/recipes/{id}/plan", "recipes:plan", a.planRecipe),
		on(post, "/v1/recipes/{id}/lock", "recipes:lock", a.lockRecipe),
		on(get, "/v1/builds", "builds:list", a.listBuilds).lists("state family recipe_id source_id commit trigger worker user_id builder", "state family created_at updated_at"),
		on(post, "/v1/builds", "builds:create", a.createBuild),
		on(get, "/v1/builds/{id}", "builds:show", a.showBuild),
		on(get, "/v1/builds/{id}/log", "builds:log", a.showBuildLog).takes("after_seq limit"),

		on(get, "/v1/families", "families:list", a.listFamilies).lists("name", "name created_at updated_at"),
		on(post, "/v1/families", "families:create", a.createFamily),
		on(get, "/v1/families/{name}", "families:show", a.showFamily),
		on(get, "/v1/families/{name}/versions", "versions:list", a.listVersions).lists("state origin", "name created_at"),
		on(get, "/v1/families/{name}/versions/{version}", "versions:show", a.showVersionOfFamily),
		on(patch, "/v1/families/{name}", "families:update", a.updateFamily),
		on(post, "/v1/families/{name}/retention", "families:retention", a.retainFamily).takes("dry_run"),
		on(post, "/v1/families/{name}/versions/{version}/revoke", "versions:revoke", a.revokeVersion).takes("dry_run"),
		on(post, "/v1/families/{name}/versions/{version}/unrevoke", "versions:unrevoke", a.unrevokeVersion),
		on(post, "/v1/families/{name}/versions/{version}/pin", "versions:pin", a.pinVersion),
		on(post, "/v1/families/{name}/versions/{version}/unpin", "versions:unpin", a.unpinVersion),
		on(put, "/v1/families/{name}/channels/{channel}", "channels:promote", a.promoteChannel),
		on(post, "/v1/families/{name}/channels/{channel}/rollback", "channels:rollback", a.rollBackChannel),
		on(get, "/v1/families/{name}/channels/{channel}/history", "channels:history", a.listChannelMoves).lists("kind version", "seq at"),
		on(get, "/v1/images", "images:list", a.listImages).lists("name state visibility status", "name state size pending_updates running rank created_at updated_at"),
		on(get, "/v1/images/{id}", "images:show", a.showImage),
		on(post, "/v1/images/{id}/inspect", "images:inspect", a.inspectImage),
		on(post, "/v1/images/{id}/adopt", "images:adopt", a.adoptImage),
		on(get, "/v1/images/{id}/lint", "images:lint", a.lintImage),
		on(get, "/v1/images/{id}/advisories", "images:advisories", a.listImageAdvisories),
		on(get, "/v1/images/{id}/documents", "images:documents", a.listDocuments),
		on(get, "/v1/images/{id}/documents/{kind}", "images:document", a.showDocument),
		on(get, "/v1/images/{id}/diff", "images:diff", a.diffImages).takes("to"),
		on(get, "/v1/families/{name}/diff", "versions:diff", a.diffVersions).takes("from to"),
		on(get, "/v1/advisories", "advisories:list", a.listAdvisories).lists("package source suite", "package suite created_at updated_at").ofCloud(),
		on(get, "/v1/advisories/{id}", "advisories:show", a.showAdvisory),
		on(post, "/v1/advisories/refresh", "advisories:refresh", a.refreshAdvisories),
		on(get, "/v1/packages", "packages:list", a.listPackages).lists("name source version cve advisory", ""),
		on(get, "/v1/cves/{id}", "cves:show", a.showCVE).takes("all_projects"),
		on(get, "/v1/upgrades", "upgrades:list", a.listUpgrades).lists("state family from_image_id", "state family created_at updated_at"),
		on(post, "/v1/upgrades", "upgrades:create", a.createUpgrade),
		on(get, "/v1/upgrades/{id}", "upgrades:show", a.showUpgrade),
		on(post, "/v1/upgrades/plan", "upgrades:plan", a.planUpgrades),
		on(get, "/v1/upgrades/plans", "upgrades:plans", a.listPlans).lists("release architecture kernel boot_loader group", "release download_bytes group created_at"),
		on(get, "/v1/images/{id}/plan", "images:plan", a.showPlan),

		on(get, "/v1/campaigns", "campaigns:list", a.listCampaigns).lists("name state policy_id open", "name state created_at updated_at"),
		on(post, "/v1/campaigns", "campaigns:create", a.createCampaign).takes("dry_run"),
		on(get, "/v1/campaigns/{id}", "campaigns:show", a.showCampaign),
		on(get, "/v1/campaigns/{id}/items", "campaigns:items", a.listCampaignItems).lists("state family image_id", "position name state updated_at"),
		on(get, "/v1/campaigns/{id}/report", "campaigns:report", a.showCampaignReport),
		on(post, "/v1/campaigns/{id}/approve", "campaigns:approve", a.approveCampaign),
		on(post, "/v1/campaigns/{id}/pause", "campaigns:pause", a.pauseCampaign),
		on(post, "/v1/campaigns/{id}/resume", "campaigns:resume", a.resumeCampaign),
		on(post, "/v1/campaigns/{id}/cancel", "campaigns:cancel", a.cancelCampaign),
		on(get, "/v1/upgrade-policies", "upgrade_policies:list", a.listUpgradePolicies).lists("name enabled", "name created_at updated_at"),
		on(post, "/v1/upgrade-policies", "upgrade_policies:create", a.createUpgradePolicy),
		on(get, "/v1/upgrade-policies/{id}", "upgrade_policies:show", a.showUpgradePolicy),
		on(patch, "/v1/upgrade-policies/{id}", "upgrade_policies:update", a.updateUpgradePolicy),
		on(del, "/v1/upgrade-policies/{id}", "upgrade_policies:delete", a.deleteUpgradePolicy),

		on(get, "/v1/workers", "workers:list", a.listWorkers).lists("name host arch", "name host free_disk seen_at").ofCloud(),
		on(get, "/v1/workers/{name}", "workers:show", a.showWorker),
		on(get, "/v1/clusters", "clusters:list", a.listClusters).lists("name", "name created_at updated_at").ofCloud(),
		on(post, "/v1/clusters", "clusters:create", a.createCluster),
		on(get, "/v1/clusters/{name}", "clusters:show", a.showCluster),
		on(patch, "/v1/clusters/{name}", "clusters:update", a.updateCluster),
		on(del, "/v1/clusters/{name}", "clusters:delete", a.deleteCluster),
		on(get, "/v1/copies", "copies:list", a.listCopies).lists("image_id cluster store node state", "cluster store state created_at updated_at"),
		on(post, "/v1/copies", "copies:create", a.createCopies),
		on(get, "/v1/copies/{id}", "copies:show", a.showCopy),
		on(del, "/v1/copies/{id}", "copies:delete", a.deleteCopy),
		on(get, "/v1/nodes", "nodes:list", a.listNodes).lists("name cluster", "name updated_at").ofCloud(),
		on(get, "/v1/nodes/{name}", "nodes:show", a.showNode),
		on(get, "/v1/workloads", "workloads:list", a.listWorkloads).lists("name kind state node family", "name kind state created_at updated_at"),
		on(post, "/v1/workloads", "workloads:create", a.createWorkload),
		on(get, "/v1/workloads/{id}", "workloads:show", a.showWorkload),
		on(del, "/v1/workloads/{id}", "workloads:delete", a.deleteWorkload),
		on(get, "/v1/ledger", "ledger:list", a.listClaims).lists("node state", "node state updated_at").ofCloud(),

		on(get, "/v1/jobs", "jobs:list", a.listJobs).lists("kind state queue resource", "kind state created_at updated_at"),
		on(get, "/v1/jobs/{id}", "jobs:show", a.showJob),
		on(get, "/v1/jobs/{id}/log", "jobs:log", a.showJobLog).takes("after_seq limit"),
		on(post, "/v1/jobs/{id}/cancel", "jobs:cancel", a.cancelJob),
		on(get, "/v1/logs", "logs:search", a.searchLogs).lists("text build_id job_id since until", ""),
		on(get, eventsPath, "events:follow", a.followEvents).takes("after all_projects"),
	}
}

// lists makes the route a list with limit, marker, sort and the filters.
func (r route) lists(filters, sorts string) route {
	r.query, r.sorts = strings.Fields(filters), strings.Fields(sorts)
	return r
}

// takes names the query keys of a route that is no list.
func (r route) takes(keys string) route {
	r.query = strings.Fields(keys)
	return r
}

// ofCloud says that the listed things belong to no project.
func (r route) ofCloud() route {
	r.cloud = true
	return r
}
