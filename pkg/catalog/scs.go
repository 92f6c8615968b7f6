package catalog

import (
	"cmp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// SCSInput is what a publisher knows of an image, for SCSProperties. Empty parts take the value that promises nothing.
type SCSInput struct {
	Facts       *Facts    // nil for an image whose disk cannot be read
	Container   bool      // a container image: no virtual hardware
	PackagesAt  time.Time // when the packages were the newest: the lock's time, or the build's
	Description string    // an address, or a text about the image
	Source      string    // an address to download it from
	User        string    // who logs in; the distribution's own cloud user where it is empty
	Purpose     string    // os_purpose
	Replaced    string    // replace_frequency: how often the recipe's schedule builds it
	KeepCount   int       // retention: how many versions stay
}

// defaultUsers are the users that cloud-init makes in each distribution's own images.
var defaultUsers = map[string]string{
	"debian": "debian", "ubuntu": "ubuntu", "fedora": "fedora", "centos": "centos", "rocky": "rocky",
	"almalinux": "almalinux", "rhel": "cloud-user", "opensuse": "opensuse", "arch": "arch",
}

// SCSProperties are the Glance properties of the SCS image metadata standard (Standard) as far as Kiln can know them.
// A recipe's own properties go over them. hypervisor_type is not among them: Nova's ImagePropertiesFilter would bind
// the image to that one hypervisor.
func SCSProperties(in SCSInput) map[string]string {
	p := map[string]string{
		"os_purpose":        cmp.Or(in.Purpose, "custom"),
		"replace_frequency": cmp.Or(in.Replaced, "critical_bug"),
		"provided_until":    "none",
		"uuid_validity":     "none",
		"image_source":      cmp.Or(in.Source, "private"),
		"image_description": short(cmp.Or(in.Description, "Built by Kiln")),
		"image_build_date":  in.PackagesAt.UTC().Format("2006-01-02 15:04"),
	}
	if in.KeepCount > 0 {
		p["uuid_validity"] = "last-" + strconv.Itoa(in.KeepCount)
	}
	user := "none"
	if in.Facts != nil {
		distro := strings.ToLower(in.Facts.OS.ID)
		for name, value := range map[string]string{
			"os_distro": distro, "os_version": in.Facts.OS.VersionID, "architecture": GlanceArchitecture(in.Facts.Architecture),
		} {
			if value != "" {
				p[name] = value
			}
		}
		if in.Facts.CloudInit {
			user = cmp.Or(defaultUsers[distro], user)
		}
	}
	p["image_original_user"] = cmp.Or(in.User, user)
	if !in.Container {
		p["hw_disk_bus"], p["hw_rng_model"] = "virtio", "virtio"
	}
	return p
}

// SCSTags are the tags that the standard recommends.
func SCSTags(f *Facts) []string {
	tags := []string{"managed_by_kiln"}
	if f != nil && f.OS.ID != "" {
		tags = append(tags, "os:"+strings.ToLower(f.OS.ID))
	}
	return tags
}

// SCSMinRAM is the RAM in MiB that a Linux image with systemd and cloud-init boots and stays up with.
const SCSMinRAM = 512

// GlanceArchitecture is Glance's name for a Debian architecture.
func GlanceArchitecture(arch string) string {
	names := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "i386": "i686", "ppc64el": "ppc64le", "armhf": "armv7l"}
	return cmp.Or(names[arch], arch)
}

// short is what Glance takes of a text: 255 bytes, whole characters.
func short(text string) string {
	for len(text) > 255 {
		_, last := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-last]
	}
	return text
}
