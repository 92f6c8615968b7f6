package zun

import (
	"net/http"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// rowStamp is how Zun prints a database's time.
const rowStamp = "2006-01-02 15:04:05"

func (s *Server) links(kind, id string) []any {
	return []any{
		map[string]any{"href": s.deps.URL + "/v1/" + kind + "/" + id, "rel": "self"},
		map[string]any{"href": s.deps.URL + "/" + kind + "/" + id, "rel": "bookmark"},
	}
}

// adminFields are what a member does not see (zun.common.policies.container get_one:*).
var adminFields = []string{"host", "image_pull_policy", "privileged", "runtime"}

// view is zun.api.controllers.v1.views.containers_view. The answer to a creation shows the row before it was
// written: null where nothing was given. Lists have no links.
func (s *Server) view(c *call, row *container, fresh, links bool) map[string]any {
	view := map[string]any{
		"uuid": row.ID, "name": row.Name, "project_id": row.ProjectID, "user_id": row.UserID, "image": row.Image, "cpu": row.CPU,
		"cpu_policy": row.CPUPolicy, "memory": strconv.FormatInt(row.MemoryMB, 10), "disk": row.DiskGB, "status": row.Status, "status_reason": row.Reason,
		"task_state": nil, "workdir": row.Workdir, "auto_remove": row.AutoRemove, "hostname": row.Hostname,
		"image_pull_policy": row.PullPolicy, "host": nil, "status_detail": row.Detail, "interactive": row.Interactive, "tty": row.TTY,
		"image_driver": row.ImageDriver, "runtime": row.Runtime, "auto_heal": row.AutoHeal, "privileged": row.Privileged,
		"registry_id": nil, "created_at": row.Created.UTC().Format(rowStamp), "updated_at": nil,
		"command": listOr(row.Command, fresh), "entrypoint": listOr(row.Entrypoint, fresh), "environment": dictOr(row.Environment, fresh),
		"labels": dictOr(row.Labels, fresh), "restart_policy": dictOr(row.RestartPolicy, fresh), "healthcheck": dictOr(row.Healthcheck, fresh),
		"ports": listOr(nil, fresh), "security_groups": listOr(nil, fresh), "addresses": s.addresses(row, fresh),
	}
	if row.Task != "" {
		view["task_state"] = row.Task
	}
	if row.Host != "" && !fresh {
		view["host"] = row.Host
	}
	if !row.Updated.IsZero() && !fresh {
		view["updated_at"] = row.Updated.UTC().Format(rowStamp)
	}
	if fresh {
		view["created_at"] = row.Created.UTC().Format(rowStamp + ".000000")
	}
	if links {
		view["links"] = s.links("containers", row.ID)
	}
	if !c.caller.Admin() {
		for _, name := range adminFields {
			delete(view, name)
		}
	}
	return view
}

// network is the pocket cloud's one network: it exists on paper only.
const (
	networkID = "22863ccd-a7d6-4600-b166-d03921ece87f"
	subnetID  = "41e8dd35-34d7-481d-be4c-9cd68c950160"
)

func (s *Server) addresses(row *container, fresh bool) any {
	if fresh {
		return nil
	}
	if row.Address == "" {
		return map[string]any{}
	}
	return map[string]any{networkID: []any{map[string]any{
		"addr": row.Address, "version": 4, "port": row.Port, "subnet_id": subnetID, "preserve_on_delete": false,
	}}}
}

func listOr(list []string, fresh bool) any {
	if list == nil && fresh {
		return nil
	}
	return append([]string{}, list...)
}

func dictOr(dict map[string]any, fresh bool) any {
	if dict == nil && !fresh {
		return map[string]any{}
	}
	if dict == nil {
		return nil
	}
	return dict
}

// showVersions is GET /; no token, no version headers.
func (s *Server) showVersions(w http.ResponseWriter) {
	v1 := map[string]any{
		"id": "v1", "links": []any{map[string]any{"href": s.deps.URL + "/v1/", "rel": "self"}}, "status": "CURRENT",
		"max_version": newest.String(), "min_version": oldest.String(),
	}
	wire.WriteJSON(w, http.StatusOK, map[string]any{
		"name": "OpenStack Zun API", "description": "Zun is an OpenStack project which aims to provide containers service.",
		"versions": []any{v1}, "default_version": v1,
	})
}

// showVersion is GET /v1; no token.
func (s *Server) showVersion(w http.ResponseWriter) {
	doc := map[string]any{
		"id":          "v1",
		"media_types": []any{map[string]any{"base": "application/json", "type": "application/vnd.openstack.zun.v1+json"}},
		"links": []any{
			map[string]any{"href": s.deps.URL + "/v1/", "rel": "self"},
			map[string]any{"href": "https://docs.openstack.org/developer/zun/dev/api-spec-v1.html", "rel": "describedby", "type": "text/html"},
		},
	}
	for _, kind := range []string{
		"services", "containers", "images", "networks", "hosts", "capsules", "availability_zones", "quotas", "quota_classes", "registries",
	} {
		doc[kind] = s.links(kind, "")
	}
	wire.WriteJSON(w, http.StatusOK, doc)
}
