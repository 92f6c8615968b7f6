package nova

import (
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// Nova sends versioned notifications (oslo versioned objects) and the older unversioned ones side by side
// ([notifications] notification_format=both). The shapes are those of
// https://docs.openstack.org/nova/zed/reference/notifications.html, seen on a real cloud.

func object(name, version string, data map[string]any) map[string]any {
	return map[string]any{
		"nova_object.name": name, "nova_object.namespace": "nova", "nova_object.version": version, "nova_object.data": data,
	}
}

func (s *Server) emit(ask request, topic, publisher, event, priority string, payload any) {
	s.deps.Emit(wire.Notification{
		Exchange: "nova", Topic: topic, Publisher: publisher, Event: event, Priority: priority,
		Payload: payload, Caller: &ask.caller, RequestID: ask.id,
	})
}

func (s *Server) versioned(ask request, publisher, event string, payload map[string]any) {
	s.emit(ask, "versioned_notifications", "nova-"+publisher, event, "INFO", payload)
}

func flavorPayload(f flavor) map[string]any {
	return object("FlavorPayload", "1.4", map[string]any{
		"flavorid": f.ID, "memory_mb": f.RAM, "vcpus": f.VCPUs, "root_gb": f.Disk, "ephemeral_gb": f.Ephemeral, "name": f.Name,
		"swap": f.Swap, "rxtx_factor": f.RxTx, "vcpu_weight": 0, "disabled": false, "is_public": f.Public,
		"extra_specs": map[string]any{}, "projects": nil, "description": f.Description,
	})
}

var powerNames = map[int]string{0: "pending", 1: "running", 4: "shutdown"}

// instancePayload is what all instance.* payloads share.
func instancePayload(ask request, i instance) map[string]any {
	return map[string]any{
		"uuid": i.ID, "user_id": i.UserID, "tenant_id": i.ProjectID, "reservation_id": i.Reservation, "display_name": i.Name,
		"display_description": i.Description, "host_name": i.Hostname, "host": orNull(i.Host), "node": orNull(i.Host),
		"os_type": nil, "architecture": nil, "availability_zone": orNull(i.Zone), "flavor": flavorPayload(i.Flavor),
		"image_uuid": i.Image.ID, "key_name": i.Key, "kernel_id": i.Image.Properties["kernel_id"],
		"ramdisk_id": i.Image.Properties["ramdisk_id"], "created_at": wire.Stamp(i.Created),
		"launched_at": stampOrNull(i.Launched, wire.Stamp), "terminated_at": stampOrNull(i.Terminated, wire.Stamp),
		"deleted_at": stampOrNull(i.Deleted, wire.Stamp), "updated_at": stampOrNull(i.Updated, wire.Stamp),
		"state": i.VMState, "power_state": powerNames[i.PowerState], "task_state": orNull(i.TaskState), "progress": 0,
		"ip_addresses": []any{}, "block_devices": []any{}, "metadata": i.Metadata, "locked": false, "auto_disk_config": "MANUAL",
		"action_initiator_user": ask.caller.UserID, "action_initiator_project": ask.caller.ProjectID, "locked_reason": nil,
		"request_id": ask.id,
	}
}

// notifyInstance sends instance.create.* and, for the end, the older compute.instance.create.end.
func (s *Server) notifyInstance(ask request, publisher, event string, i instance) {
	payload := createPayload(ask, i)
	s.versioned(ask, publisher, event, object("InstanceCreatePayload", "1.12", payload))
	legacy := s.legacyPayload(i)
	legacy["fixed_ips"] = []any{}
	if strings.HasSuffix(event, ".end") {
		legacy["message"] = "Success"
	}
	s.legacy(ask, publisher, "compute."+event, legacy)
}

func createPayload(ask request, i instance) map[string]any {
	payload := instancePayload(ask, i)
	payload["keypairs"], payload["tags"], payload["trusted_image_certificates"] = []any{}, []any{}, nil
	payload["instance_name"], payload["fault"] = i.Label, nil
	return payload
}

// notifyError is instance.create.error, with priority ERROR.
func (s *Server) notifyError(ask request, publisher, event string, i instance, f *fault) {
	payload := createPayload(ask, i)
	payload["fault"] = object("ExceptionPayload", "1.1", map[string]any{
		"module_name": "nova.compute.manager", "function_name": "_build_and_run_instance", "exception": f.Exception,
		"exception_message": f.Message, "traceback": f.Details,
	})
	s.emit(ask, "versioned_notifications", "nova-"+publisher, event, "ERROR", object("InstanceCreatePayload", "1.12", payload))
}

// notifyAction is instance.delete.* and instance.shutdown.*.
func (s *Server) notifyAction(ask request, publisher, event string, i instance) {
	payload := instancePayload(ask, i)
	payload["fault"] = nil
	s.versioned(ask, publisher, event, object("InstanceActionPayload", "1.8", payload))
	s.legacy(ask, publisher, "compute."+event, s.legacyPayload(i))
}

// notifyUpdate is instance.update: a change of state, with the conductor's or API's host as publisher.
func (s *Server) notifyUpdate(ask request, before, after instance) {
	begin, end := s.audit()
	payload := instancePayload(ask, after)
	payload["tags"], payload["old_display_name"], payload["block_devices"] = []any{}, nil, nil
	payload["state_update"] = object("InstanceStateUpdatePayload", "1.0", map[string]any{
		"old_state": before.VMState, "state": after.VMState,
		"old_task_state": orNull(before.TaskState), "new_task_state": orNull(after.TaskState),
	})
	payload["audit_period"] = object("AuditPeriodPayload", "1.0", map[string]any{
		"audit_period_beginning": wire.Stamp(begin), "audit_period_ending": wire.Stamp(end),
	})
	s.versioned(ask, "compute:"+s.deps.Region, "instance.update", object("InstanceUpdatePayload", "2.0", payload))

	legacy := s.legacyPayload(after)
	legacy["old_state"], legacy["old_task_state"], legacy["new_task_state"] = before.VMState, orNull(before.TaskState), orNull(after.TaskState)
	legacy["audit_period_beginning"], legacy["audit_period_ending"] = wire.MicroStamp(begin), wire.MicroStamp(end)
	s.legacy(ask, "compute:"+s.deps.Region, "compute.instance.update", legacy)
}

// audit is the month so far ([DEFAULT] instance_usage_audit_period).
func (s *Server) audit() (begin, end time.Time) {
	end = s.deps.Clock().UTC()
	return time.Date(end.Year(), end.Month(), 1, 0, 0, 0, 0, time.UTC), end
}

func (s *Server) legacy(ask request, publisher, event string, payload map[string]any) {
	s.emit(ask, "notifications", strings.Replace(publisher, ":", ".", 1), event, "INFO", payload)
}

func orEmpty(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return wire.MicroStamp(t)
}

func (s *Server) legacyPayload(i instance) map[string]any {
	image := map[string]any{
		"min_ram": "0", "min_disk": "1", "disk_format": i.Image.DiskFormat, "container_format": i.Image.ContainerFormat,
		"base_image_ref": i.Image.ID,
	}
	for key, value := range i.Image.Properties {
		image[key] = value
	}
	return map[string]any{
		"tenant_id": i.ProjectID, "user_id": i.UserID, "instance_id": i.ID, "display_name": i.Name, "reservation_id": i.Reservation,
		"hostname": i.Hostname, "instance_type": i.Flavor.Name, "instance_type_id": 1, "instance_flavor_id": i.Flavor.ID,
		"architecture": nil, "memory_mb": i.Flavor.RAM, "disk_gb": i.Flavor.Disk + i.Flavor.Ephemeral, "vcpus": i.Flavor.VCPUs,
		"root_gb": i.Flavor.Disk, "ephemeral_gb": i.Flavor.Ephemeral, "host": orNull(i.Host), "node": orNull(i.Host),
		"availability_zone": orNull(i.Zone), "cell_name": "", "created_at": i.Created.UTC().Format("2006-01-02 15:04:05+00:00"),
		"terminated_at": orEmpty(i.Terminated), "deleted_at": orEmpty(i.Deleted), "launched_at": orEmpty(i.Launched),
		"image_ref_url": strings.TrimSuffix(s.deps.URL, "/compute") + "/image/images/" + i.Image.ID, "os_type": nil,
		"kernel_id": i.Image.Properties["kernel_id"], "ramdisk_id": i.Image.Properties["ramdisk_id"], "state": i.VMState,
		"state_description": i.TaskState, "progress": "", "access_ip_v4": nil, "access_ip_v6": nil, "image_meta": image,
		"metadata": i.Metadata,
	}
}

// notifyAggregate is aggregate.cache_images.start and .end.
func (s *Server) notifyAggregate(ask request, phase string, a aggregate) {
	s.versioned(ask, "api:"+s.deps.Region, "aggregate.cache_images."+phase, object("AggregatePayload", "1.1", map[string]any{
		"id": a.ID, "uuid": a.UUID, "name": a.Name, "hosts": a.Hosts, "metadata": a.Metadata,
	}))
}

// notifyProgress is aggregate.cache_images.progress: one for each host.
func (s *Server) notifyProgress(ask request, a aggregate, host string, done, failed []string, index int) {
	s.versioned(ask, "conductor:"+s.deps.Region, "aggregate.cache_images.progress", object("AggregateCachePayload", "1.0", map[string]any{
		"id": a.ID, "uuid": a.UUID, "name": a.Name, "host": host, "images_cached": done, "images_failed": failed,
		"index": index, "total": len(a.Hosts),
	}))
}
