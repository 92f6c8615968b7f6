package catalog

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Standard is what Lint holds images against: the image metadata standard of the Sovereign Cloud Stack
// (https://docs.scs.community/standards/scs-0102-v2-image-metadata).
const Standard = "scs-0102-v2"

// Level says whether the standard demands or recommends.
type Level string

// The levels.
const (
	LintError   Level = "error"
	LintWarning Level = "warning"
)

// Finding is one rule that an image does not keep.
type Finding struct {
	Rule   string `json:"rule"` // the property, or "tag", "uniqueness", "age"
	Level  Level  `json:"level"`
	Found  string `json:"found"` // "" where the property is missing
	Wanted string `json:"wanted"`
}

// LintReport is what Lint found of one image.
type LintReport struct {
	ImageID  string    `json:"image_id"`
	Name     string    `json:"name"`
	Standard string    `json:"standard"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
	Findings []Finding `json:"findings"` // errors first
}

// property is one rule about one property.
type property struct {
	name   string
	level  Level // of a missing one; "" where it may be missing
	wanted string
	valid  func(value string) bool
	vm     bool // says nothing about container images
}

var (
	date      = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}$`)
	buildDate = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}( \d{2}:\d{2}(:\d{2})?)?$`)
	lastN     = regexp.MustCompile(`^last-[1-9]\d*$`)
	word      = regexp.MustCompile(`^[a-z][a-z0-9._-]*$`)
	wholeNum  = regexp.MustCompile(`^\d+$`)
)

func oneOf(values ...string) func(string) bool {
	return func(v string) bool { return slices.Contains(values, v) }
}

func dated(layouts ...string) func(string) bool {
	return func(v string) bool {
		return slices.ContainsFunc(layouts, func(l string) bool { _, err := time.Parse(l, v); return err == nil })
	}
}

func either(checks ...func(string) bool) func(string) bool {
	return func(v string) bool {
		return slices.ContainsFunc(checks, func(c func(string) bool) bool { return c(v) })
	}
}

func isURL(v string) bool {
	u, err := url.Parse(v)
	return err == nil && u.Scheme != "" && (u.Host != "" || u.Opaque != "")
}

func given(v string) bool { return v != "" }

var boolean = oneOf("true", "false", "True", "False", "yes", "no", "1", "0")

// replaceDays is how old a visible image may be by its replace_frequency; the standard allows three days more.
var replaceDays = map[string]int{"yearly": 366, "quarterly": 92, "monthly": 31, "weekly": 7, "daily": 1}

// properties are the standard's rules in its order.
var properties = []property{
	{"architecture", LintError, "Glance's name of the CPU, such as x86_64 or aarch64", oneOf(strings.Fields(
		"aarch64 alpha armv7l cris i686 ia64 lm32 m68k microblaze microblazeel mips mipsel mips64 mips64el openrisc parisc parisc64 ppc ppc64 ppc64le ppcemb riscv64 s390 s390x sh4 sh4eb sparc sparc64 unicore32 x86_64 xtensa xtensaeb")...), true},
	{"os_version", LintError, "the version of the operating system", given, false},
	{"os_distro", LintError, "the distribution in lower case, such as debian", word.MatchString, false},
	{"os_purpose", LintError, "generic, oldgeneric, minimal, k8snode, gpu, network or custom", oneOf("generic", "oldgeneric", "minimal", "k8snode", "gpu", "network", "custom"), false},
	{"hw_disk_bus", LintError, "scsi, virtio or another bus of Nova", oneOf(strings.Fields("scsi virtio uml xen ide usb lxc sata nvme fdc")...), true},
	{"hypervisor_type", LintWarning, "hyperv, ironic, lxc, qemu, kvm, uml, vmware or xen", oneOf(strings.Fields("hyperv ironic lxc qemu kvm uml vmware xen")...), true},
	{"hw_rng_model", LintWarning, "virtio", given, true},
	{"hw_firmware_type", "", "bios or uefi", oneOf("bios", "uefi"), true},
	{"os_secure_boot", "", "required, disabled or optional", oneOf("required", "disabled", "optional"), true},
	{"hw_watchdog_action", "", "disabled, reset, poweroff, pause or none", oneOf("disabled", "reset", "poweroff", "pause", "none"), true},
	{"hw_mem_encryption", "", "true or false", boolean, true},
	{"hw_pmu", "", "true or false", boolean, true},
	{"hw_video_ram", "", "a number of MiB", wholeNum.MatchString, true},
	{"hw_vif_multiqueue_enabled", "", "true or false", boolean, true},
	{"replace_frequency", LintError, "yearly, quarterly, monthly, weekly, daily, critical_bug or never", oneOf("yearly", "quarterly", "monthly", "weekly", "daily", "critical_bug", "never"), false},
	{"uuid_validity", LintError, "none, last-N, a date YYYY-MM-DD, notice or forever", either(oneOf("none", "notice", "forever"), lastN.MatchString, dated(time.DateOnly)), false},
	{"provided_until", LintError, "a date YYYY-MM-DD, none or notice", either(oneOf("none", "notice"), dated(time.DateOnly)), false},
	{"hotfix_hours", "", "a number of hours", wholeNum.MatchString, false},
	{"image_source", LintError, "the address that it can be downloaded from, or private", either(oneOf("private"), isURL), false},
	{"image_description", LintError, "an address or a text about the image", given, false},
	{"image_build_date", LintError, "YYYY-MM-DD or YYYY-MM-DD hh:mm[:ss] in UTC", dated(time.DateOnly, "2006-01-02 15:04", time.DateTime), false},
	{"image_original_user", LintError, "the user to log in as, or none", given, false},
	{"license_included", "", "true or false", boolean, false},
	{"license_required", "", "true or false", boolean, false},
	{"subscription_included", "", "true or false", boolean, false},
	{"subscription_required", "", "true or false", boolean, false},
	{"maintained_until", "", "a date YYYY-MM-DD", dated(time.DateOnly), false},
	{"l1_support_contact", "", "a URI", isURL, false},
}

// Lint holds an image against the standard. A value that is there and wrong is an error, also of a property that
// may be missing. now is for the age of images that people see.
func Lint(g GlanceImage, now time.Time) LintReport {
	r := LintReport{ImageID: g.ID, Name: g.Name, Standard: Standard, Findings: []Finding{}}
	vm := g.ContainerFormat != "docker"
	for _, p := range properties {
		value, there := g.Properties[p.name]
		switch {
		case p.vm && !vm:
		case !there || value == "":
			if p.level != "" {
				r.add(p.name, p.level, "", p.wanted)
			}
		case !p.valid(value):
			r.add(p.name, LintError, value, p.wanted)
		}
	}
	if vm {
		r.size("min_disk", g.MinDiskGiB, "the GiB that its disk needs")
		r.size("min_ram", g.MinRAMMiB, "the MiB that it boots with")
		r.bus(g)
	}
	r.hash(g)
	r.tags(g)
	r.licences(g)
	r.age(g, now)
	r.sort()
	return r
}

func (r *LintReport) add(rule string, level Level, found, wanted string) {
	r.Findings = append(r.Findings, Finding{rule, level, found, wanted})
}

func (r *LintReport) size(name string, value int, wanted string) {
	if value < 1 {
		r.add(name, LintError, strconv.Itoa(value), wanted)
	}
}

func (r *LintReport) bus(g GlanceImage) {
	bus := g.Properties["hw_disk_bus"]
	switch {
	case bus == "scsi" && g.Properties["hw_scsi_model"] == "":
		r.add("hw_scsi_model", LintWarning, "", "virtio-scsi, beside hw_disk_bus scsi")
	case bus != "" && bus != "scsi":
		r.add("hw_disk_bus", LintWarning, bus, "scsi is recommended")
	}
}

func (r *LintReport) hash(g GlanceImage) {
	switch size := map[string]int{"sha256": 64, "sha512": 128}[g.HashAlgo]; {
	case g.HashAlgo == "" || g.HashValue == "":
		r.add("os_hash_value", LintWarning, "", "the sha256 or sha512 of the image, which Glance finds at the upload")
	case size == 0:
		r.add("os_hash_algo", LintWarning, g.HashAlgo, "sha256 or sha512")
	case len(g.HashValue) != size:
		r.add("os_hash_value", LintError, g.HashValue, fmt.Sprintf("%d hex digits of %s", size, g.HashAlgo))
	}
}

func (r *LintReport) tags(g GlanceImage) {
	for prefix, wanted := range map[string]string{"os:": "a tag os:OPERATINGSYSTEM", "managed_by_": "a tag managed_by_VENDOR"} {
		if !slices.ContainsFunc(g.Tags, func(t string) bool { return strings.HasPrefix(t, prefix) }) {
			r.add("tag", LintWarning, strings.Join(g.Tags, ", "), wanted)
		}
	}
}

func truth(v string) bool { return slices.Contains([]string{"true", "yes", "1"}, strings.ToLower(v)) }

func (r *LintReport) licences(g GlanceImage) {
	for _, what := range []string{"license", "subscription"} {
		if truth(g.Properties[what+"_included"]) && truth(g.Properties[what+"_required"]) {
			r.add(what+"_required", LintError, "true", "false, because "+what+"_included is true")
		}
	}
	if g.Properties["os_distro"] == "windows" && g.Properties["license_included"] == "" && g.Properties["license_required"] == "" {
		r.add("license_included", LintError, "", "whether a licence comes with it: this one is mandatory where a commercial licence is needed")
	}
}

// age compares what people see with what they are promised. Hidden images were replaced.
func (r *LintReport) age(g GlanceImage, now time.Time) {
	built := g.Properties["image_build_date"]
	if !buildDate.MatchString(built) {
		return
	}
	at, err := time.Parse(time.DateOnly, built[:10])
	if err != nil {
		return
	}
	const slack = 3
	days := int(now.UTC().Sub(at).Hours() / 24)
	promised, ok := replaceDays[g.Properties["replace_frequency"]]
	switch {
	case days < -1:
		r.add("image_build_date", LintError, built, "a day that has been")
	case ok && !g.Hidden && days > promised+slack:
		r.add("age", LintWarning, fmt.Sprintf("%d days", days), "replaced "+g.Properties["replace_frequency"]+", as replace_frequency promises")
	}
	if until := g.Properties["provided_until"]; !g.Hidden && date.MatchString(until) && until < now.UTC().Format(time.DateOnly) {
		r.add("provided_until", LintWarning, until, "a day to come, or the image hidden")
	}
}

// Unique adds the standard's rule that spans images: of each os_distro, os_version and architecture one visible public
// image at the most is generic. others are the images that the rule may meet.
func (r *LintReport) Unique(g GlanceImage, others []GlanceImage) {
	if !generic(g) {
		return
	}
	for _, o := range others {
		same := o.ID != g.ID && generic(o)
		for _, name := range []string{"os_distro", "os_version", "architecture"} {
			same = same && o.Properties[name] == g.Properties[name]
		}
		if same {
			r.add("uniqueness", LintError, "image "+o.ID+" ("+o.Name+")", "one visible public image with os_purpose generic of each os_distro, os_version and architecture")
		}
	}
	r.sort()
}

func generic(g GlanceImage) bool {
	return g.Visibility == "public" && !g.Hidden && g.Properties["os_purpose"] == "generic"
}

func (r *LintReport) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		if a.Level != b.Level {
			return strings.Compare(string(a.Level), string(b.Level)) // "error" before "warning"
		}
		return strings.Compare(a.Rule, b.Rule)
	})
	r.Errors, r.Warnings = 0, 0
	for _, f := range r.Findings {
		if f.Level == LintError {
			r.Errors++
		} else {
			r.Warnings++
		}
	}
}
