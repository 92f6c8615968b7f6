package recipe

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	kernelArgs = regexp.MustCompile(`^[A-Za-z0-9 =,._:/@+-]*$`)
	// ext4 keeps 16 bytes of a label.
	partitionLabel = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,15}$`)
	mountPoint     = regexp.MustCompile(`^(/[A-Za-z0-9][A-Za-z0-9._-]*)+$`)
	// A label of a worker, or a number that it must reach (job.Fits).
	need         = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,63}(=[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}|>=[0-9]{1,15}(\.[0-9]{1,6})?)?$`)
	elementName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
	settingOfDIB = regexp.MustCompile(`^DIB_[A-Z0-9_]{1,60}$`)
	// Keystone's ids: 32 hexadecimal digits, a UUID, or the 64 of a domain from a directory service.
	projectID = regexp.MustCompile(`^([0-9a-f]{32}|[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)
)

// datasources are those of cloud-init 24 (doc/rtd/reference/datasources.rst), by the names of its datasource_list.
var datasources = strings.Fields(`Akamai AliYun AltCloud Azure Bigstep CloudSigma CloudStack ConfigDrive DigitalOcean Ec2 Exoscale GCE Hetzner
	IBMCloud LXD MAAS NWCS NoCloud None OVF OpenNebula OpenStack Oracle RbxCloud Scaleway SmartOS UpCloud VMware Vultr WSL`)

// Builders that a recipe may ask for.
const (
	Packer           = "packer"
	DiskImageBuilder = "diskimage-builder"
)

func (p *parser) builderRules(r *Recipe) {
	b := r.Builder
	for i, n := range b.Needs {
		at := fmt.Sprintf("builder.needs[%d]", i)
		switch {
		case !need.MatchString(n):
			p.value(at, "%q is no need: write label, key=value or key>=number", n)
		case strings.HasPrefix(n, "builder="):
			p.value(at, "the builder is named by builder.name")
		}
	}
	only := func(given bool, field string, names ...string) {
		if given && !slices.Contains(names, b.Name) {
			p.value("builder."+field, "this is for the builder %s", words(names, "or"))
		}
	}
	only(b.Template != "", "template", Packer)
	only(len(b.Elements) > 0, "elements", DiskImageBuilder)
	only(len(b.Settings) > 0, "settings", Packer, DiskImageBuilder)
	p.inRepository("builder.template", b.Template)
	for i, e := range b.Elements {
		if !elementName.MatchString(e) {
			p.value(fmt.Sprintf("builder.elements[%d]", i), "%q is not the name of an element", e)
		}
	}
	for name := range b.Settings {
		switch {
		case b.Name == DiskImageBuilder && !settingOfDIB.MatchString(name):
			p.value("builder.settings."+name, "%q: settings of diskimage-builder begin with DIB_", name)
		case b.Name == Packer && !valueName.MatchString(name):
			p.value("builder.settings."+name, "%q is not the name of a variable", name)
		}
	}
}

// The smallest and largest disk, the smallest partition and what the root needs at least.
const (
	leastDisk      = Size(512 << 20)
	mostDisk       = Size(64 << 40)
	leastPartition = Size(16 << 20)
	leastRoot      = Size(256 << 20)
)

func (p *parser) diskRules(r *Recipe) {
	if s := r.Disk.Size; s != 0 && (s < leastDisk || s > mostDisk) {
		p.value("disk.size", "%s: a disk has %s at least and %s at most", s, leastDisk, mostDisk)
	}
	labels, mounts := map[string]bool{}, map[string]bool{}
	for i, part := range r.Disk.Partitions {
		at := fmt.Sprintf("disk.partitions[%d]", i)
		p.partitionRules(at, part)
		if part.Label != "" && labels[part.Label] {
			p.value(at+".label", "%q is given twice", part.Label)
		}
		if part.Mount != "" && mounts[part.Mount] {
			p.value(at+".mount", "%q is given twice", part.Mount)
		}
		labels[part.Label], mounts[part.Mount] = true, true
	}
	if k := r.Kernel.Package; k != "" && !packageName.MatchString(k) {
		p.value("kernel.package", "%q is not a Debian package name", k)
	}
	if a := r.Kernel.Arguments; !kernelArgs.MatchString(a) || len(a) > 1024 {
		p.value("kernel.arguments", "only letters, digits, spaces and = , . _ : / @ + - are allowed, and 1024 characters")
	}
	for i, d := range r.CloudInit.Datasources {
		at := fmt.Sprintf("cloud_init.datasources[%d]", i)
		switch {
		case !slices.Contains(datasources, d):
			p.value(at, "%q is no datasource of cloud-init; it has %s", d, strings.Join(datasources, ", "))
		case slices.Contains(r.CloudInit.Datasources[:i], d):
			p.value(at, "%q is given twice", d)
		}
	}
}

func (p *parser) partitionRules(at string, part Partition) {
	switch {
	case part.Label == "":
	case !partitionLabel.MatchString(part.Label):
		p.value(at+".label", "%q: use up to 16 lower case letters, digits, dashes and underscores, beginning with a letter", part.Label)
	case slices.Contains([]string{"root", "esp", "efi", "bios"}, part.Label):
		p.value(at+".label", "%q is the name of one of the system's own partitions", part.Label)
	}
	if part.Size != 0 && part.Size < leastPartition {
		p.value(at+".size", "%s: a partition has %s at least", part.Size, leastPartition)
	}
	switch {
	case part.Mount == "":
	case part.Filesystem == "swap":
		p.value(at+".mount", "swap is mounted nowhere")
	case !mountPoint.MatchString(part.Mount) || path.Clean(part.Mount) != part.Mount:
		p.value(at+".mount", "%q: give an absolute path such as /srv", part.Mount)
	case systemsOwn(part.Mount):
		p.value(at+".mount", "%q is the system's own and stays on the root", part.Mount)
	}
}

// systemsOwn tells what must be on the root: without it the system does not start, or its packages cannot be read.
func systemsOwn(mount string) bool {
	return below(mount, "/bin", "/boot", "/dev", "/efi", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root", "/run", "/sbin", "/sys",
		"/tmp", "/usr", "/var/lib/apt", "/var/lib/dpkg", "/var/lib/cloud") || mount == "/var" || mount == "/var/lib"
}

func (p *parser) outputRules(r *Recipe) {
	for i, f := range r.Output.Also {
		at := fmt.Sprintf("output.also[%d]", i)
		switch {
		case slices.Contains(r.Output.Also[:i], f):
			p.value(at, "%q is given twice", f)
		case f == first(r.Output.Format, DefaultFormat):
			p.value(at, "%q is the format of the VM image already", f)
		}
	}
	for i, m := range r.Publish.Members {
		at := fmt.Sprintf("publish.members[%d]", i)
		switch {
		case !projectID.MatchString(m):
			p.value(at, "%q is not the id of a project: names are not unique in a cloud", m)
		case slices.Contains(r.Publish.Members[:i], m):
			p.value(at, "%q is given twice", m)
		}
	}
	if c := r.Publish.Channel; c != "" && !channelName.MatchString(c) {
		p.value("publish.channel", "%q: use up to 31 lower case letters, digits and dashes, beginning with a letter", c)
	}
	for name, value := range r.Properties {
		if strings.HasPrefix(name, "kiln_") {
			p.value("properties."+name, "properties that begin with kiln_ are Kiln's own")
		}
		if name == "" || len(name) > 255 || len(value) > 255 {
			p.value("properties."+name, "Glance keeps 1 to 255 characters of a name and at most 255 of a value")
		}
	}
}

// The bounds of a test's time.
const (
	DefaultTestTimeout = 5 * time.Minute
	maxTestTimeout     = time.Hour
)

func (p *parser) testRules(tests []Test) {
	seen := map[string]bool{}
	for i, t := range tests {
		at := fmt.Sprintf("tests[%d]", i)
		if t.Name != "" && seen[t.Name] {
			p.value(at+".name", "%q is given twice", t.Name)
		}
		seen[t.Name] = true
		p.inRepository(at+".source", t.Source)
		if d, err := time.ParseDuration(t.Timeout); t.Timeout != "" && (err != nil || d < time.Second || d > maxTestTimeout) {
			p.value(at+".timeout", "%q: give a time from 1s to 1h, for example 90s or 5m", t.Timeout)
		}
	}
}

// Wait is the test's timeout.
func (t Test) Wait() time.Duration {
	d, err := time.ParseDuration(t.Timeout)
	if err != nil { // Parse let none other through; an unparsed Test gets the default
		return DefaultTestTimeout
	}
	return d
}

func (p *parser) triggerRules(t Triggers) {
	if t.Schedule == "" {
		return
	}
	if _, err := t.Cron(); err != nil {
		p.value("triggers.schedule", "%s", err)
	}
}

// flaw is a fault of a recipe with all that it stands on.
type flaw struct{ field, text string }

// faults are what can only be told of a whole recipe: parts that contradict each other. It is asked for a recipe on
// a release, or one that was resolved.
func (r *Recipe) faults() []flaw {
	var out []flaw
	add := func(field, format string, args ...any) { out = append(out, flaw{field, fmt.Sprintf(format, args...)}) }
	size, sum := r.Disk.Size, Size(0)
	if size == 0 {
		size = DefaultSize
	}
	for _, part := range r.Disk.Partitions {
		sum += min(part.Size, mostDisk)
	}
	if sum > 0 && sum+leastRoot > size {
		add("disk.partitions", "the partitions take %s of the disk's %s: the root needs %s at least", sum, size, leastRoot)
	}
	if len(r.Publish.Members) > 0 && r.Publish.Visibility != "shared" {
		add("publish.members", "only an image of visibility shared has members")
	}
	if r.Triggers.Base && r.From.Family == "" {
		add("triggers.base", "there is no base whose channel could move: the recipe does not stand on a family")
	}
	if field := r.sudoMissing(); field != "" {
		add(field, "sudo: true needs the package sudo, which no step before installs")
	}
	return out
}

// sudoMissing is the field of a user of the recipe's own that may use sudo where nothing installs it. The image of a
// family may have brought it.
func (r *Recipe) sudoMissing() string {
	if r.From.Family != "" {
		return ""
	}
	there := false
	for _, s := range r.Plan {
		there = there || slices.ContainsFunc(s.Packages, isSudo)
		if there || s.Recipe != r.Name {
			continue
		}
		at := s.Where.Field
		if at != "users" {
			at += ".users"
		}
		for i, u := range s.Users {
			if u.Sudo {
				return at + "[" + strconv.Itoa(i) + "].sudo"
			}
		}
	}
	return ""
}

func isSudo(name string) bool {
	name, _, _ = strings.Cut(name, "=")
	name, _, _ = strings.Cut(name, ":")
	return name == "sudo"
}
