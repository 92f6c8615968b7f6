package nova

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// instance is one server. Its fields are guarded by Server.mu; a copy (see copyOf) is free to read.
type instance struct {
	ID, Name, Hostname   string
	Description          *string
	ProjectID, UserID    string
	Project, User        string // names, for notifications
	Image                wire.Image
	Flavor               flavor
	Metadata             map[string]string
	Key, UserData        *string
	ConfigDrive          bool
	Host, Zone           string // Host is empty until it is scheduled
	Reservation, Label   string // r-abcdefgh, instance-0000000a
	VMState              string // building, active, stopped, error, deleted
	TaskState            string // "" is null
	PowerState           int    // 0 no state, 1 running, 4 shut down
	Created, Updated     time.Time
	Launched, Terminated time.Time // zero is null
	Deleted              time.Time
	Fault                *fault
	AdminPass            string

	ask    request            // for notifications about this instance's background work
	cancel context.CancelFunc // of the build under way
	built  chan struct{}      // closed when the build has ended
}

// fault is the last thing that went wrong.
type fault struct {
	Code             int
	Message, Details string
	Exception        string // Python class name in notifications
	At               time.Time
}

// request is who asked, for the notifications that follow from it.
type request struct {
	caller wire.Caller
	id     string
}

func askOf(c *call) request {
	return request{caller: c.caller, id: wire.RequestID(c.Context())}
}

func copyOf(i *instance) instance {
	out := *i
	out.Metadata = maps.Clone(i.Metadata)
	return out
}

var notHost = regexp.MustCompile(`[^\w.-]+`)

// hostnameOf is nova.utils.sanitize_hostname.
func hostnameOf(name, id string) string {
	host := strings.NewReplacer(" ", "-", "_", "-").Replace(name)
	host = strings.ToLower(notHost.ReplaceAllString(host, ""))
	host = strings.Trim(host, ".-")
	if len(host) > 63 {
		host = host[:63]
	}
	if host == "" {
		return "Server-" + id
	}
	return host
}

// hostID hides the host's name from tenants: sha224 of project and host, as Nova does.
func hostID(project, host string) string {
	if host == "" {
		return ""
	}
	sum := sha256.Sum224([]byte(project + host))
	return hex.EncodeToString(sum[:])
}

func (i *instance) status() string {
	switch i.TaskState {
	case "rebooting":
		return "REBOOT"
	case "rebooting_hard":
		return "HARD_REBOOT"
	}
	switch i.VMState {
	case "building":
		return "BUILD"
	case "active":
		return "ACTIVE"
	case "stopped":
		return "SHUTOFF"
	case "error":
		return "ERROR"
	case "deleted":
		return "DELETED"
	}
	return "UNKNOWN"
}

// showsProgress: progress is shown in some states only, and no driver here counts it
// (nova.api.openstack.compute.views.servers).
func (i *instance) showsProgress() bool {
	return slices.Contains([]string{"ACTIVE", "BUILD", "REBOOT", "HARD_REBOOT"}, i.status())
}

func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func stampOrNull(t time.Time, format func(time.Time) string) any {
	if t.IsZero() {
		return nil
	}
	return format(t)
}
