package glance

import (
	"maps"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

const publisher = "image.localhost" // Glance's default_publisher_id

// imagePayload is the payload of the image notifications, in Glance's order of keys
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/notifier.py, format_image_notification).
type imagePayload struct {
	ID              string            `json:"id"`
	Name            *string           `json:"name"`
	Status          string            `json:"status"`
	CreatedAt       string            `json:"created_at"`
	UpdatedAt       string            `json:"updated_at"`
	MinDisk         int64             `json:"min_disk"`
	MinRAM          int64             `json:"min_ram"`
	Protected       bool              `json:"protected"`
	Checksum        *string           `json:"checksum"`
	Owner           string            `json:"owner"`
	DiskFormat      *string           `json:"disk_format"`
	ContainerFormat *string           `json:"container_format"`
	Size            *int64            `json:"size"`
	VirtualSize     *int64            `json:"virtual_size"`
	IsPublic        bool              `json:"is_public"`
	Visibility      string            `json:"visibility"`
	Properties      map[string]string `json:"properties"`
	Tags            []string          `json:"tags"`
	Deleted         bool              `json:"deleted"`
	DeletedAt       *string           `json:"deleted_at"`
	Importing       *[]string         `json:"os_glance_importing_to_stores,omitempty"`
	Failed          *[]string         `json:"os_glance_failed_import,omitempty"`
	Backend         string            `json:"backend,omitempty"`
}

// progress is what prepare and upload say about an import on top; only prepare names the store.
type progress struct {
	importing, failed []string
	store             string
}

func importState(i *image) *progress {
	return &progress{importing: listOf(i.properties[propImporting]), failed: listOf(i.properties[propFailed])}
}

// prepare tells that bytes are about to go to a store.
func (s *Service) prepare(i *image, store string) {
	p := importState(i)
	p.store = store
	s.notify("prepare", i, p)
}

func listOf(text string) []string {
	if text == "" {
		return []string{}
	}
	return strings.Split(text, ",")
}

func payloadOf(i *image) imagePayload {
	properties := map[string]string{}
	maps.Copy(properties, i.properties)
	return imagePayload{
		ID: i.id, Name: i.name, Status: i.status, CreatedAt: wire.Stamp(i.created), UpdatedAt: wire.Stamp(i.updated),
		MinDisk: i.minDisk, MinRAM: i.minRAM, Protected: i.protected, Checksum: i.checksum, Owner: i.owner,
		DiskFormat: i.diskFormat, ContainerFormat: i.containerFormat, Size: i.size, VirtualSize: i.virtualSize,
		IsPublic: i.visibility == "public", Visibility: i.visibility, Properties: properties,
		Tags: append([]string{}, i.tags...),
	}
}

func (s *Service) emit(event, priority string, payload any) {
	s.kit.Emit(wire.Notification{Exchange: "glance", Topic: "notifications", Publisher: publisher, Event: event,
		Priority: priority, Payload: payload})
}

// notify sends image.<verb>. The lock is held, so that the order of the notifications is that of the changes; the
// hook must not call back into the service.
func (s *Service) notify(verb string, i *image, p *progress) {
	payload := payloadOf(i)
	if p != nil {
		payload.Importing, payload.Failed = &p.importing, &p.failed
		payload.Backend = p.store
	}
	s.emit("image."+verb, "INFO", payload)
}

func (s *Service) notifyDelete(i *image) {
	payload := payloadOf(i)
	at := wire.Stamp(s.kit.Clock())
	payload.Deleted, payload.DeletedAt = true, &at
	s.emit("image.delete", "INFO", payload)
}

// notifyError: the payload of a failed upload is a plain text.
func (s *Service) notifyError(_ *image, message string) { s.emit("image.upload", "ERROR", message) }

// notifySend tells of a download; one that ended early is an error.
func (s *Service) notifySend(i *image, c wire.Caller, sent, wanted int64) {
	priority := "INFO"
	if sent != wanted {
		priority = "ERROR"
	}
	s.emit("image.send", priority, struct {
		Sent     int64  `json:"bytes_sent"`
		Image    string `json:"image_id"`
		Owner    string `json:"owner_id"`
		Receiver string `json:"receiver_tenant_id"`
		User     string `json:"receiver_user_id"`
	}{sent, i.id, i.owner, c.ProjectID, c.UserID})
}

func (s *Service) notifyTask(verb string, t *task) {
	var message *string
	if t.message != "" {
		message = &t.message
	}
	s.emit("task."+verb, "INFO", struct {
		ID        string  `json:"id"`
		Type      string  `json:"type"`
		Status    string  `json:"status"`
		Result    any     `json:"result"`
		Owner     string  `json:"owner"`
		Message   *string `json:"message"`
		ExpiresAt string  `json:"expires_at"`
		CreatedAt string  `json:"created_at"`
		UpdatedAt string  `json:"updated_at"`
		Deleted   bool    `json:"deleted"`
		DeletedAt *string `json:"deleted_at"`
	}{t.id, "api_image_import", t.status, nil, t.owner, message, wire.Stamp(t.updated.Add(48 * time.Hour)),
		wire.Stamp(t.created), wire.Stamp(t.updated), false, nil})
}
