package policy

import "net/http"

// Operation is one call of the API that a rule decides about. Path is written as in openapi.yaml.
type Operation struct {
	Method string
	Path   string
}

// Rule is one line of policy: Check is in oslo.policy's language, Scope names the token scopes that may pass at all
// ("system", "project"). A rule without Operations is a building block for others.
type Rule struct {
	Name        string
	Check       string
	Description string
	Operations  []Operation
	Scope       []string
}

// The building blocks. Roles imply each other (admin, manager, member, reader), and the checks say so
// themselves, so that a token without Keystone's implied roles means the same.
const (
	admin         = "rule:admin_required"
	adminOrRead   = "rule:admin_or_service"
	projectReader = "rule:admin_or_service or rule:project_reader"
	projectMember = "rule:admin_required or rule:project_member"
	projectOwner  = "rule:admin_required or rule:project_manager"
	anyReader     = "rule:admin_or_service or role:reader or role:member or role:manager"
)

// AllProjects is the rule that lets a caller list the things of every project (?all_projects=true).
const AllProjects = "provisioning:all_projects"

// CampaignsEverywhere is the rule that lets a caller's campaigns and standing policies take images of other projects.
const CampaignsEverywhere = "provisioning:campaigns:all_projects"

var (
	anyScope    = []string{"system", "project"}
	projectOnly = []string{"project"}
)

func op(method, path string) []Operation { return []Operation{{method, path}} }

// Defaults is the whole policy of Kiln. policy.yaml overrides the check of a rule and nothing else.
// Names and the meaning of the target do not change: %(project_id)s is the project of the thing,
// or that of the caller where a thing is made or listed.
func Defaults() []Rule {
	const get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete
	return []Rule{
		{"admin_required", "role:admin", "The administrator of the cloud.", nil, nil},
		{"admin_or_service", "role:admin or role:service", "The administrator, or another service of the cloud, which may read everything.", nil, nil},
		{"project_reader", "(role:reader or role:member or role:manager) and project_id:%(project_id)s", "May see the things of the project.", nil, nil},
		{"project_member", "(role:member or role:manager) and project_id:%(project_id)s", "May change the things of the project.", nil, nil},
		{"project_manager", "role:manager and project_id:%(project_id)s", "May promote and revoke in the project.", nil, nil},
		{AllProjects, adminOrRead, "See the things of every project in lists, with all_projects=true.", nil, anyScope},

		{"provisioning:sources:list", projectReader, "List sources.", op(get, "/v1/sources"), anyScope},
		{"provisioning:sources:create", projectMember, "Create a source and read it.", op(post, "/v1/sources"), projectOnly},
		{"provisioning:sources:show", projectReader, "Show a source.", op(get, "/v1/sources/{id}"), anyScope},
		{"provisioning:sources:delete", projectMember, "Delete a source with its recipes.", op(del, "/v1/sources/{id}"), anyScope},
		{"provisioning:sources:sync", projectMember, "Read the recipes of a source again.", op(post, "/v1/sources/{id}/sync"), anyScope},
		{"provisioning:sources:secret", projectMember, "Give a source another secret for its webhooks.", op(post, "/v1/sources/{id}/secret"), anyScope},
		{"provisioning:sources:fetch", projectReader, "Clone and fetch a hosted repository.", []Operation{
			{get, "/v1/git/{project_id}/{name}/info/refs"}, {post, "/v1/git/{project_id}/{name}/git-upload-pack"}}, anyScope},
		{"provisioning:sources:push", projectMember, "Push to a hosted repository; asked for info/refs?service=git-receive-pack, too.",
			op(post, "/v1/git/{project_id}/{name}/git-receive-pack"), anyScope},
		{"provisioning:recipes:list", projectReader, "List recipes.", op(get, "/v1/recipes"), anyScope},
		{"provisioning:recipes:show", projectReader, "Show a recipe.", op(get, "/v1/recipes/{id}"), anyScope},
		{"provisioning:recipes:schema", anyReader, "Read the JSON Schema of recipes.", op(get, "/v1/recipes/schema"), anyScope},
		{"provisioning:recipes:plan", projectMember, "Find out what a build of a recipe would do; nothing is built.", op(post, "/v1/recipes/{id}/plan"), anyScope},
		{"provisioning:recipes:lock", projectMember, "Pin the packages of a recipe as the repositories have them now.", op(post, "/v1/recipes/{id}/lock"), anyScope},
		{"provisioning:recipes:validate", anyReader, "Check the text of a recipe; nothing is kept.", op(post, "/v1/recipes/validate"), anyScope},
		{"provisioning:builds:list", projectReader, "List builds.", op(get, "/v1/builds"), anyScope},
		{"provisioning:builds:create", projectMember, "Build a recipe.", op(post, "/v1/builds"), projectOnly},
		{"provisioning:builds:show", projectReader, "Show a build.", op(get, "/v1/builds/{id}"), anyScope},
		{"provisioning:builds:log", projectReader, "Read the log of a build.", op(get, "/v1/builds/{id}/log"), anyScope},

		{"provisioning:families:list", projectReader, "List families.", op(get, "/v1/families"), anyScope},
		{"provisioning:families:create", projectMember, "Create a family.", op(post, "/v1/families"), projectOnly},
		{"provisioning:families:show", projectReader, "Show a family.", op(get, "/v1/families/{name}"), projectOnly},
		{"provisioning:versions:list", projectReader, "List the versions of a family.", op(get, "/v1/families/{name}/versions"), projectOnly},
		{"provisioning:versions:show", projectReader, "Show a version.", op(get, "/v1/families/{name}/versions/{version}"), projectOnly},
		{"provisioning:families:update", projectMember, "Change the description and the retention of a family.", op(patch, "/v1/families/{name}"), projectOnly},
		{"provisioning:families:retention", projectOwner, "Delete the versions of a family that nothing keeps, or tell which they are.", op(post, "/v1/families/{name}/retention"), projectOnly},
		{"provisioning:versions:revoke", projectOwner, "Forbid that a version and what was made from it are ever started again.", op(post, "/v1/families/{name}/versions/{version}/revoke"), projectOnly},
		{"provisioning:versions:unrevoke", projectOwner, "Take a revocation back.", op(post, "/v1/families/{name}/versions/{version}/unrevoke"), projectOnly},
		{"provisioning:versions:pin", projectMember, "Keep a version from retention.", op(post, "/v1/families/{name}/versions/{version}/pin"), projectOnly},
		{"provisioning:versions:unpin", projectMember, "Leave a version to retention again.", op(post, "/v1/families/{name}/versions/{version}/unpin"), projectOnly},
		{"provisioning:channels:promote", projectOwner, "Let a channel point to a version.", op(put, "/v1/families/{name}/channels/{channel}"), projectOnly},
		{"provisioning:channels:rollback", projectOwner, "Let a channel point to what it pointed to before.", op(post, "/v1/families/{name}/channels/{channel}/rollback"), projectOnly},
		{"provisioning:channels:history", projectReader, "List the moves of a channel.", op(get, "/v1/families/{name}/channels/{channel}/history"), projectOnly},
		{"provisioning:images:list", projectReader, "List images.", op(get, "/v1/images"), anyScope},
		{"provisioning:images:show", projectReader, "Show an image with its facts.", op(get, "/v1/images/{id}"), anyScope},
		{"provisioning:images:inspect", projectMember, "Read the disk of an image again.", op(post, "/v1/images/{id}/inspect"), anyScope},
		{"provisioning:images:adopt", projectMember, "Make an image that somebody uploaded the first version of a family.", op(post, "/v1/images/{id}/adopt"), anyScope},
		{"provisioning:images:lint", projectReader, "Hold an image against the SCS image metadata standard.", op(get, "/v1/images/{id}/lint"), anyScope},
		{"provisioning:images:documents", projectReader, "List the documents of an image.", op(get, "/v1/images/{id}/documents"), anyScope},
		{"provisioning:images:document", projectReader, "Read a document of an image.", op(get, "/v1/images/{id}/documents/{kind}"), anyScope},
		{"provisioning:images:diff", projectReader, "Tell what differs between two images.", op(get, "/v1/images/{id}/diff"), anyScope},
		{"provisioning:versions:diff", projectReader, "Tell what differs between two versions of a family.", op(get, "/v1/families/{name}/diff"), projectOnly},
		{"provisioning:images:advisories", projectReader, "List the fixes that an image lacks.", op(get, "/v1/images/{id}/advisories"), anyScope},
		{"provisioning:advisories:list", anyReader, "List advisories.", op(get, "/v1/advisories"), anyScope},
		{"provisioning:advisories:show", anyReader, "Show an advisory.", op(get, "/v1/advisories/{id}"), anyScope},
		{"provisioning:advisories:refresh", projectOwner, "Read the repositories' published fixes now.", op(post, "/v1/advisories/refresh"), anyScope},
		{"provisioning:packages:list", projectReader, "Ask which images have a package, or lack a fix.", op(get, "/v1/packages"), anyScope},
		{"provisioning:cves:show", projectReader, "Show how many images lack a fix of a CVE.", op(get, "/v1/cves/{id}"), anyScope},
		{"provisioning:upgrades:list", projectReader, "List upgrades.", op(get, "/v1/upgrades"), anyScope},
		{"provisioning:upgrades:create", projectMember, "Upgrade a version offline into a new one.", op(post, "/v1/upgrades"), projectOnly},
		{"provisioning:upgrades:show", projectReader, "Show an upgrade.", op(get, "/v1/upgrades/{id}"), anyScope},
		{"provisioning:upgrades:plan", projectMember, "Find out what upgrades of images would do; no image is changed.", op(post, "/v1/upgrades/plan"), projectOnly},
		{"provisioning:upgrades:plans", projectReader, "List the last upgrade plan of each image.", op(get, "/v1/upgrades/plans"), anyScope},
		{"provisioning:images:plan", projectReader, "Show the last upgrade plan of an image.", op(get, "/v1/images/{id}/plan"), anyScope},

		{CampaignsEverywhere, admin, "Let campaigns and standing policies take images of other projects.", nil, anyScope},
		{"provisioning:campaigns:list", projectReader, "List campaigns.", op(get, "/v1/campaigns"), anyScope},
		{"provisioning:campaigns:create", projectMember, "Upgrade many images; with dry_run, tell which it would take.", op(post, "/v1/campaigns"), projectOnly},
		{"provisioning:campaigns:show", projectReader, "Show a campaign with its progress.", op(get, "/v1/campaigns/{id}"), anyScope},
		{"provisioning:campaigns:items", projectReader, "List the images of a campaign.", op(get, "/v1/campaigns/{id}/items"), anyScope},
		{"provisioning:campaigns:report", projectReader, "Tell what a campaign fixed, and what remains.", op(get, "/v1/campaigns/{id}/report"), anyScope},
		{"provisioning:campaigns:approve", projectOwner, "Let a campaign begin that waits for approval.", op(post, "/v1/campaigns/{id}/approve"), anyScope},
		{"provisioning:campaigns:pause", projectMember, "Start no further upgrades of a campaign.", op(post, "/v1/campaigns/{id}/pause"), anyScope},
		{"provisioning:campaigns:resume", projectMember, "Go on with a paused campaign.", op(post, "/v1/campaigns/{id}/resume"), anyScope},
		{"provisioning:campaigns:cancel", projectMember, "End a campaign and the upgrades that run.", op(post, "/v1/campaigns/{id}/cancel"), anyScope},
		{"provisioning:upgrade_policies:list", projectReader, "List standing upgrade policies.", op(get, "/v1/upgrade-policies"), anyScope},
		{"provisioning:upgrade_policies:create", projectMember, "Create a standing upgrade policy.", op(post, "/v1/upgrade-policies"), projectOnly},
		{"provisioning:upgrade_policies:show", projectReader, "Show a standing upgrade policy.", op(get, "/v1/upgrade-policies/{id}"), anyScope},
		{"provisioning:upgrade_policies:update", projectMember, "Change a standing upgrade policy.", op(patch, "/v1/upgrade-policies/{id}"), anyScope},
		{"provisioning:upgrade_policies:delete", projectMember, "Delete a standing upgrade policy.", op(del, "/v1/upgrade-policies/{id}"), anyScope},

		{"provisioning:workers:list", adminOrRead, "List the workers.", op(get, "/v1/workers"), anyScope},
		{"provisioning:workers:show", adminOrRead, "Show a worker.", op(get, "/v1/workers/{name}"), anyScope},
		{"provisioning:clusters:list", adminOrRead, "List clusters.", op(get, "/v1/clusters"), anyScope},
		{"provisioning:clusters:create", admin, "Create a cluster.", op(post, "/v1/clusters"), anyScope},
		{"provisioning:clusters:show", adminOrRead, "Show a cluster.", op(get, "/v1/clusters/{name}"), anyScope},
		{"provisioning:clusters:update", admin, "Change the nodes and stores of a cluster.", op(patch, "/v1/clusters/{name}"), anyScope},
		{"provisioning:clusters:delete", admin, "Delete a cluster without copies.", op(del, "/v1/clusters/{name}"), anyScope},
		{"provisioning:copies:list", projectReader, "List the copies of an image of the project; all of them with provisioning:all_projects.", op(get, "/v1/copies"), anyScope},
		{"provisioning:copies:create", projectMember, "Make copies of an image in a cluster and on its nodes.", op(post, "/v1/copies"), projectOnly},
		{"provisioning:copies:show", projectReader, "Show a copy of an image of the project.", op(get, "/v1/copies/{id}"), anyScope},
		{"provisioning:copies:delete", projectMember, "Evict a copy of an image of the project.", op(del, "/v1/copies/{id}"), anyScope},
		{"provisioning:nodes:list", adminOrRead, "List nodes.", op(get, "/v1/nodes"), anyScope},
		{"provisioning:nodes:show", adminOrRead, "Show a node.", op(get, "/v1/nodes/{name}"), anyScope},
		{"provisioning:workloads:list", projectReader, "List workloads.", op(get, "/v1/workloads"), anyScope},
		{"provisioning:workloads:create", projectMember, "Start a workload.", op(post, "/v1/workloads"), projectOnly},
		{"provisioning:workloads:show", projectReader, "Show a workload.", op(get, "/v1/workloads/{id}"), anyScope},
		{"provisioning:workloads:delete", projectMember, "Delete a workload.", op(del, "/v1/workloads/{id}"), anyScope},
		{"provisioning:ledger:list", adminOrRead, "List the claims of all workloads.", op(get, "/v1/ledger"), anyScope},

		{"provisioning:jobs:list", projectReader, "List jobs.", op(get, "/v1/jobs"), anyScope},
		{"provisioning:jobs:show", projectReader, "Show a job.", op(get, "/v1/jobs/{id}"), anyScope},
		{"provisioning:jobs:log", projectReader, "Read the log of a job.", op(get, "/v1/jobs/{id}/log"), anyScope},
		{"provisioning:jobs:cancel", projectMember, "Cancel a job.", op(post, "/v1/jobs/{id}/cancel"), anyScope},
		{"provisioning:logs:search", projectReader, "Search what the jobs of the project said.", op(get, "/v1/logs"), anyScope},
		{"provisioning:events:follow", projectReader, "Follow the events of the project.", op(get, "/v1/events"), anyScope},
	}
}
