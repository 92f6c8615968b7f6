package conformance

import (
	"errors"
	"net/http"
	"strings"
)

// Recorded containers of the laboratory.
const (
	web1    = "e2fb6b22-ba4c-4464-8952-55e286fc02a2"
	web2    = "6d423aa0-74ad-4746-af2c-e7a4cd1b2b1e"
	web3    = "6e9c966c-b797-4062-a92e-7267679d02d2"
	bad1    = "34f9302f-b5ce-4ba9-8e22-abedd9ac7720"
	full1   = "4f221948-1899-4093-9b7f-9608f676aaff"
	old1    = "14ac1cf7-e168-4c8b-8a28-77947df55c69"
	old3    = "4e15a513-3644-47f0-82ea-ef9d738f2f88"
	busy    = "55545ad6-97bf-4367-b579-e78aba995e47"
	project = "9d9ae8384ba54ff997e89550727c85ef"
)

// zunCase brings a laboratory into the state in which a sample was recorded.
type zunCase struct {
	options labOptions
	prepare func(l *zunLab)
}

// zunNotReplayed are the samples that need what the pocket cloud does not have, and why.
var zunNotReplayed = map[string]string{
	"patch-cpu-memory-500": "Docker itself refuses the new memory limit; there is no Docker",
	"logs-with-output":     "the text is what a real process wrote",
	"show-finished":        "a real process has to end by itself",
	"images-search-glance": "wire.Images, the in-process view of Glance, has no hashes, locations and free properties",
}

func isRunning(recorded string) zunCase {
	return zunCase{prepare: func(l *zunLab) { l.until(l.make(recorded, true, nil), "Running") }}
}

func isCreated(recorded string) zunCase {
	return zunCase{prepare: func(l *zunLab) { l.until(l.make(recorded, false, nil), "Created") }}
}

// after runs actions on a running container; each is "action:status that it leads to".
func after(recorded string, steps ...string) zunCase {
	return zunCase{prepare: func(l *zunLab) {
		id := l.make(recorded, true, nil)
		l.until(id, "Running")
		for _, step := range steps {
			action, status, _ := strings.Cut(step, ":")
			l.act(id, action, status)
		}
	}}
}

// isError makes a container that ends in Error, with changes that make it so.
func isError(recorded string, changes map[string]any) zunCase {
	return zunCase{prepare: func(l *zunLab) { l.until(l.make(recorded, true, changes), "Error") }}
}

func unscheduled() zunCase {
	return zunCase{options: labOptions{vcpus: 2}, prepare: func(l *zunLab) {
		fill(l)
		l.until(l.make(full1, true, map[string]any{"host": "zun2"}), "Error")
	}}
}

// fill takes all CPUs of zun2.
func fill(l *zunLab) {
	l.until(l.make("filler", true, map[string]any{"host": "zun2", "cpu": 2, "memory": 64}), "Running")
}

func frozen(recorded string) zunCase {
	return zunCase{options: labOptions{frozen: true}, prepare: func(l *zunLab) { l.make(recorded, true, nil) }}
}

func several(names ...string) zunCase {
	return zunCase{prepare: func(l *zunLab) {
		for _, name := range names {
			l.until(l.make(name, true, nil), "Running")
		}
	}}
}

func serviceIs(action string, body map[string]any) func(l *zunLab) {
	return func(l *zunLab) {
		body["binary"], body["host"] = "zun-compute", "zun2"
		if resp, answer := l.call("admin", http.MethodPut, "/v1/services/"+action, newestZun, body); resp.StatusCode != http.StatusOK {
			l.t.Fatalf("services/%s: %s %v", action, resp.Status, answer)
		}
	}
}

// pulled asks images onto hosts and waits until the first has come (where it can).
func pulled(recorded ...string) zunCase {
	return zunCase{prepare: func(l *zunLab) {
		for _, entry := range recorded {
			parts := strings.Split(entry, " ") // recorded uuid, repo, host
			_, answer := l.call("admin", http.MethodPost, "/v1/images", newestZun, map[string]any{"repo": parts[1], "host": parts[2]})
			view, _ := answer.(map[string]any)
			id, _ := view["uuid"].(string)
			l.ours[parts[0]] = id
			l.waitImage(id, !strings.Contains(parts[1], "/"))
		}
	}}
}

// recordHost maps the recorded uuid of zun1 to ours.
func recordHost(l *zunLab) {
	_, answer := l.call("admin", http.MethodGet, "/v1/hosts/zun1", newestZun, nil)
	view, _ := answer.(map[string]any)
	l.ours["69e96d48-4802-4cde-8947-b2b808259969"], _ = view["uuid"].(string)
}

// recordAction maps a recorded request id to that of the container's first action.
func recordAction(l *zunLab, ident, recorded string) {
	_, answer := l.call("admin", http.MethodGet, "/v1/containers/"+ident+"/container_actions", newestZun, nil)
	view, _ := answer.(map[string]any)
	list, _ := view["containerActions"].([]any)
	if len(list) == 0 {
		l.t.Fatalf("no action of %s: %v", ident, answer)
	}
	first, _ := list[len(list)-1].(map[string]any)
	l.ours[recorded], _ = first["request_id"].(string)
}

func withAction(c zunCase, recordedContainer, recordedAction string) zunCase {
	inner := c.prepare
	c.prepare = func(l *zunLab) {
		inner(l)
		ident := recordedContainer
		if own := l.ours[ident]; own != "" {
			ident = own
		}
		recordAction(l, ident, recordedAction)
	}
	return c
}

// stuck is cpu_policy dedicated where no host pins CPUs: it stays in Creating for ever.
func stuck() zunCase {
	return zunCase{prepare: func(l *zunLab) { l.make("ded-1", true, map[string]any{"cpu_policy": "dedicated"}) }}
}

// zunCases are the samples that need a state; those that are in no table are sent to an empty laboratory.
func zunCases() map[string]zunCase {
	const createRequest = "req-2f702c81-ee5f-4716-baaf-dad6820435ff"
	const errorRequest = "req-15599bdf-2c54-4077-9dd9-5a649d505336"
	const stuckRequest = "req-5b986eac-c414-4df9-87d8-c1770262950a"
	docker := "b7c15846-cb3b-46d0-8fd9-1adbd3eebb37 labzun/nosuch:1.0 zun1"
	glance := "280b0f9e-cb53-451f-982e-bd3b55176bf4 79ef80ec-cd19-49be-9422-0ff1ff5d73a3 zun2"
	other := "e4fde15d-991a-4d5e-83bc-708c52b17422 79ef80ec-cd19-49be-9422-0ff1ff5d73a3 zun1"
	again := "3dc55126-c135-4c32-a376-d84d82f81b2a 79ef80ec-cd19-49be-9422-0ff1ff5d73a3 zun2"
	notPresent := isError(bad1, map[string]any{"host": "zun1"})

	cases := map[string]zunCase{
		"actions-list-after-error": notPresent, "actions-show-after-error": withAction(notPresent, bad1, errorRequest),
		"actions-list-after-rebuild": after(web2, "rebuild:Running"), "actions-list-after-resize": isRunning(web3),
		"actions-list-dedicated-stuck": stuck(), "actions-show-dedicated-stuck": withAction(stuck(), "ded-1", stuckRequest),
		"show-dedicated-stuck": stuck(), "actions-list-of-unscheduled": unscheduled(), "actions-show-404": isRunning(web1),
		"actions-show": withAction(isRunning(web1), web1, createRequest), "actions-show-as-member": withAction(isRunning(web1), web1, createRequest),
		"create-host-disabled": {prepare: serviceIs("disable", map[string]any{})},
		"create-host-down":     {prepare: serviceIs("force_down", map[string]any{"forced_down": true})},
		"create-host-full":     {options: labOptions{vcpus: 2}, prepare: fill},
		"create-too-big":       {options: labOptions{vcpus: 2}}, "create-race-500": {options: labOptions{raced: true}},
		"create-over-quota-403": {prepare: func(l *zunLab) {
			l.make("only-one", true, nil)
			l.call("admin", http.MethodPut, "/v1/quotas/"+projectOf(l), newestZun, map[string]any{"containers": 1})
		}},
		"show-error-pull-failed": isError("ec97f262-7e5d-45e9-94fa-a6aa6895afc0", map[string]any{"host": "zun1"}), "show-error-image-not-present": notPresent,
		"show-error-host-full": unscheduled(), "show-error-create-failed": isError("0a09693a-d82d-48e5-a59b-a16746f8bd47", map[string]any{"host": "zun1", "workdir": "rel"}),
		"show-error-disk-quota":      isError("f5cb4eb2-366d-4ef0-aa1e-7d5f30d5fcb0", map[string]any{"host": "zun1", "disk": 1}),
		"show-error-glance-image":    isError("ecb6334c-0b11-4050-95a5-307ccc7fb750", nil),
		"show-running-glance-image":  isRunning("875126fa-4a81-45d8-9bf1-af5ad273e407"),
		"show-after-start-of-error":  {prepare: func(l *zunLab) { startOfError(l) }},
		"delete-error":               notPresent,
		"start-of-error":             notPresent,
		"delete-unscheduled":         unscheduled(),
		"logs-of-unscheduled-400":    unscheduled(),
		"rebuild-of-unscheduled":     unscheduled(),
		"show-by-ambiguous-name-409": {prepare: func(l *zunLab) { l.make("dup", false, nil); l.make("dup", false, nil) }},
		"show-host-dead-500":         {prepare: func(l *zunLab) { deadNode(l) }}, "delete-host-dead": {prepare: func(l *zunLab) { deadNode(l) }},
		"show-error-rebuild-bad-image": {prepare: rebuiltBadly}, "show-start-failed": {prepare: startRefused},
		"show-rebuilt": {prepare: func(l *zunLab) { l.until(rebuildTo(l, "labzun/busybox:2.0"), "Running") }},
		"show-host-down": {prepare: func(l *zunLab) {
			l.until(rebuildTo(l, "labzun/busybox:2.0"), "Running")
			serviceIs("force_down", map[string]any{"forced_down": true})(l)
		}},
		"stop-host-down": {prepare: func(l *zunLab) {
			l.until(l.make(web2, true, nil), "Running")
			serviceIs("force_down", map[string]any{"forced_down": true})(l)
		}},
		"show-after-resize": {prepare: func(l *zunLab) { resized(l) }}, "unpause": after(web1, "pause:Paused"), "show-paused": after(web1, "pause:Paused"),
		"start": after(web1, "stop:Stopped"), "show-stopped": after(web1, "stop:Stopped"), "show-killed": after(web1, "kill:Stopped"),
		"show-restarted": after(web1, "reboot:Running"), "show-created": isCreated("idle-1"), "list-filter-status": isCreated("idle-1"),
		"list-filter-name": isRunning(old3), "list-filter-name-exact": isRunning(old3), "list-sort": several("shared-glance", "shared-1"),
		"other-project-list-all-projects": several("shared-1", "shared-glance", web1), "list-host-all-projects": several("shared-1", "shared-glance"),
		"list-marker": several(old3, "full-fields", web1), "show-full-fields": isRunning("full-fields"), "network-list": isRunning("old-1"),
		"images-create-docker-again-409": pulled("none labzun/busybox:1.0 zun1"), "images-create-again": {}, "images-create-host-uuid": {prepare: recordHost},
		"hosts-show": {prepare: recordHost}, "images-show-glance": pulled(glance), "images-show-docker-failed": pulled(docker), "images-delete": pulled(docker),
		"images-list": pulled(glance, docker, other, again), "images-list-after-delete": pulled(glance, other, again), "other-project-images": pulled(glance),
		"patch-name": isRunning(web3), "patch-cpu-memory": isRunning(web3), "rename-below-1.14": {prepare: func(l *zunLab) {
			l.until(l.make(web3, true, map[string]any{"name": "web-3b"}), "Running")
		}},
	}
	for state, files := range map[*zunCase]string{
		new(isRunning(web1)): "delete-force-as-member-403 delete-force-mv-1.6-400 delete-running-409 delete-stop-true kill logs pause reboot " +
			"resize-container-mv-1.18-406 show-running show-running-as-member show-running-by-name show-running-mv-1.1 start-running-409 stop " +
			"unpause-running-409 unknown-action-404 show-right-after-stop show-right-after-delete-stop",
		new(isRunning(web2)): "rebuild show-running-with-host list-filter-host",
		new(isRunning(web3)): "delete-force resize-container resize-container-too-big-400",
		new(isRunning(old1)): "other-project-delete other-project-delete-all-projects other-project-rebuild other-project-show other-project-show-all-projects " +
			"other-project-stop other-project-stop-all-projects-400",
		new(isRunning("old-1")): "execute stats top",
		new(isRunning(old3)):    "foreign-member-delete-404 foreign-member-show-404 foreign-member-show-by-name-404 other-project-show-by-name other-project-list",
		new(frozen(busy)):       "delete-force-while-creating delete-while-creating-409",
		new(frozen(web1)):       "show-right-after-create",
		new(frozen("e2f5ee71-e3c2-4121-a0b2-31cfd97a26e8")): "show-creating-during-pull",
		new(several(web1, web2)):                            "list list-limit-1 list-all-projects",
		new(after(web1, "stop:Stopped", "start:Running", "pause:Paused", "unpause:Running", "reboot:Running", "kill:Stopped", "start:Running")): "actions-list actions-list-mv-1.32",
	} {
		for name := range strings.FieldsSeq(files) {
			cases[name] = *state
		}
	}
	addUnderWay(cases)
	return cases
}

// addUnderWay adds the cases where the node has not done its work yet: it is dead, so that it never does.
func addUnderWay(cases map[string]zunCase) {
	for _, name := range []string{"other-project-actions", "other-project-actions-all-projects"} {
		cases[name] = zunCase{prepare: func(l *zunLab) {
			id := l.make(old1, true, nil)
			l.until(id, "Running")
			l.server.Kill("vm", true) // so that the stop stays under way, as recorded
			l.call("admin of another project", http.MethodPost, "/v1/containers/"+id+"/stop", newestZun, nil)
		}}
	}
	cases["other-project-resize-409"] = zunCase{prepare: func(l *zunLab) {
		id := l.make(old1, true, nil)
		l.until(id, "Running")
		l.server.Kill("vm", true)
		l.call("admin", http.MethodPost, "/v1/containers/"+id+"/rebuild", newestZun, nil)
	}}
	cases["show-rebuilding"] = zunCase{prepare: func(l *zunLab) {
		l.until(l.make(web2, true, nil), "Running")
		l.server.Kill("zun2", true)
		l.call("admin", http.MethodPost, "/v1/containers/"+l.ours[web2]+"/rebuild", newestZun, map[string]any{"image": "labzun/busybox:2.0"})
		serviceIs("force_down", map[string]any{"forced_down": true})(l) // the row is shown without asking the node
	}}
}

func projectOf(l *zunLab) string {
	caller, _ := labTokens{}.Check("admin")
	l.ours[project] = caller.ProjectID
	return caller.ProjectID
}

func startOfError(l *zunLab) {
	id := l.make(bad1, true, map[string]any{"host": "zun1"})
	l.until(id, "Error")
	l.call("admin", http.MethodPost, "/v1/containers/"+id+"/start", newestZun, nil)
	l.untilReason(id, "Cannot operate an uncreated container.")
}

func deadNode(l *zunLab) {
	l.until(l.make("big-g", true, map[string]any{"host": "zun2"}), "Running")
	l.server.Kill("zun2", true)
}

func rebuildTo(l *zunLab, image string) string {
	id := l.make(web2, true, map[string]any{"image": "labzun/busybox:1.0"})
	l.until(id, "Running")
	l.call("admin", http.MethodPost, "/v1/containers/"+id+"/rebuild", newestZun, map[string]any{"image": image})
	return id
}

func rebuiltBadly(l *zunLab) {
	const recorded = "4aefc96c-6441-451c-b1f1-a06ec6fc58b2"
	seen := l.containers[recorded]
	id := l.make(recorded, true, map[string]any{"image": "labzun/busybox:1.0"})
	l.until(id, "Running")
	reason, _ := seen["status_reason"].(string)
	l.docker.refusePull = errors.New(reason)
	l.call("admin", http.MethodPost, "/v1/containers/"+id+"/rebuild", newestZun, map[string]any{"image": seen["image"]})
	l.until(id, "Error")
}

func startRefused(l *zunLab) {
	const recorded = "55f5f9c0-e1ff-44e9-bf35-e69ae9b26fed"
	reason, _ := l.containers[recorded]["status_reason"].(string)
	l.docker.refuseStart = errors.New(reason)
	id := l.make(recorded, true, nil)
	l.until(id, "Created")
	l.untilReason(id, reason)
}

func resized(l *zunLab) {
	id := l.make(web3, true, map[string]any{"cpu": 1, "memory": 64})
	l.until(id, "Running")
	l.call("admin", http.MethodPost, "/v1/containers/"+id+"/resize_container", newestZun, map[string]any{"cpu": 2, "memory": 128})
	l.untilField(id, "memory", "128")
}
