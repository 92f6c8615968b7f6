// Package recipe is how one image is made: a YAML file in a git repository. It parses strictly, names the
// file, line and field of every fault, and resolves `from` inside one repository.
package recipe

import (
	"fmt"
	"io/fs"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Files is the repository at one commit. It must refuse paths that leave it (os.Root.FS does).
type Files = fs.FS

// Recipe is one recipe file, or, after Set.Resolve, one with all that it stands on laid under it.
type Recipe struct {
	Name        string             `yaml:"name" json:"name" doc:"name of the recipe; unique in its repository" required:"true"`
	Family      catalog.FamilyName `yaml:"family" json:"family" doc:"family that the built versions belong to; the recipe's name where left out"`
	Description string             `yaml:"description" json:"description,omitempty" doc:"one sentence for people"`
	From        From               `yaml:"from" json:"from" doc:"what the image stands on" required:"true"`
	Builder     Builder            `yaml:"builder" json:"builder,omitzero" doc:"who builds it, and where"`
	Values      map[string]string  `yaml:"values" json:"values,omitempty" doc:"values for templates"`
	Packages    []string           `yaml:"packages" json:"packages,omitempty" doc:"Debian packages to install"`
	Users       []User             `yaml:"users" json:"users,omitempty" doc:"users to make"`
	Files       []File             `yaml:"files" json:"files,omitempty" doc:"files to lay into the image"`
	Scripts     []Script           `yaml:"scripts" json:"scripts,omitempty" doc:"commands to run inside the image, in order, without network"`
	Services    Services           `yaml:"services" json:"services,omitzero" doc:"systemd units to switch on or off"`
	Steps       []Step             `yaml:"steps" json:"steps,omitempty" doc:"further steps, in order, after all of the above; each is cached by itself"`
	CloudInit   CloudInit          `yaml:"cloud_init" json:"cloud_init,omitzero" doc:"where cloud-init asks for its data; brings the package cloud-init"`
	Disk        Disk               `yaml:"disk" json:"disk,omitzero" doc:"the disk"`
	Kernel      Kernel             `yaml:"kernel" json:"kernel,omitzero" doc:"the kernel"`
	Output      Output             `yaml:"output" json:"output,omitzero" doc:"what is made"`
	Publish     Publish            `yaml:"publish" json:"publish,omitzero" doc:"who sees it"`
	Tests       []Test             `yaml:"tests" json:"tests,omitempty" doc:"commands that must succeed in the booted image before anybody sees it"`
	Triggers    Triggers           `yaml:"triggers" json:"triggers,omitzero" doc:"when it is built without being asked for"`
	Properties  map[string]string  `yaml:"properties" json:"properties,omitempty" doc:"Glance image properties"`

	// Path is the file that the recipe was read from, relative to the repository.
	Path string `yaml:"-" json:"path"`
	// Plan is every step in the order in which it is done, those of the recipes below first. Builders work by it;
	// the lists above are what people wrote. Parse fills in the recipe's own steps, Set.Resolve the whole chain's.
	Plan []Step `yaml:"-" json:"plan,omitempty"`
}

// From is what an image stands on: a Debian release, another recipe of the same repository, or a version of a family.
type From struct {
	Release string             `yaml:"release" json:"release,omitempty" doc:"Debian release, for example bookworm"`
	Recipe  string             `yaml:"recipe" json:"recipe,omitempty" doc:"name of another recipe of the repository, whose steps come first"`
	Family  catalog.FamilyName `yaml:"family" json:"family,omitempty" doc:"family in the project whose image is the base"`
	Channel string             `yaml:"channel" json:"channel,omitempty" doc:"channel or version of that family; stable where left out, candidate where there is no stable"`
}

// Builder says who makes the image and what the worker must have.
type Builder struct {
	Name     string            `yaml:"name" json:"name,omitempty" doc:"native (the default), packer or diskimage-builder" enum:"native packer diskimage-builder"`
	Needs    []string          `yaml:"needs" json:"needs,omitempty" doc:"labels that the worker must have, for example gpu or disk_gib>=50"`
	Template string            `yaml:"template" json:"template,omitempty" doc:"packer: a JSON template of the repository whose provisioners run after the recipe's steps"`
	Elements []string          `yaml:"elements" json:"elements,omitempty" doc:"diskimage-builder: further elements, of its own or of the repository's folder elements/"`
	Settings map[string]string `yaml:"settings" json:"settings,omitempty" doc:"diskimage-builder: environment (DIB_…); packer: variables of the template"`
}

// StepKind says which field of a Step is used.
type StepKind string

// The kinds of steps.
const (
	StepPackages  StepKind = "packages"
	StepUsers     StepKind = "users"
	StepFiles     StepKind = "files"
	StepScript    StepKind = "script"
	StepServices  StepKind = "services"
	StepCloudInit StepKind = "cloud_init"
)

// Step is one unit of work inside the image, and of caching and resuming. Exactly one of its parts is given.
type Step struct {
	Name     string   `yaml:"name" json:"name,omitempty" doc:"what the log calls it"`
	Packages []string `yaml:"packages" json:"packages,omitempty" doc:"Debian packages to install"`
	Users    []User   `yaml:"users" json:"users,omitempty" doc:"users to make"`
	Files    []File   `yaml:"files" json:"files,omitempty" doc:"files to lay into the image"`
	Run      string   `yaml:"run" json:"run,omitempty" doc:"commands for /bin/sh -e, without network"`
	Source   string   `yaml:"source" json:"source,omitempty" doc:"file in the repository with the commands"`
	Services Services `yaml:"services" json:"services,omitzero" doc:"systemd units to switch on or off"`

	// In a plan only: the kind, the datasources of a cloud_init step, which recipe asked for it, and where.
	Kind        StepKind          `yaml:"-" json:"kind,omitempty"`
	Datasources []string          `yaml:"-" json:"datasources,omitempty"`
	Values      map[string]string `yaml:"-" json:"values,omitempty"` // for the step's templates
	Recipe      string            `yaml:"-" json:"recipe,omitempty"`
	Where       errs.Where        `yaml:"-" json:"-"` // file, line and field, for errors; no part of what is done
}

// File is one file laid into the image. Exactly one of Content and Source is set.
type File struct {
	Path     string `yaml:"path" json:"path" doc:"absolute path in the image" required:"true"`
	Content  string `yaml:"content" json:"content,omitempty" doc:"the file's text"`
	Source   string `yaml:"source" json:"source,omitempty" doc:"file in the repository, relative to its root"`
	Template bool   `yaml:"template" json:"template,omitempty" doc:"true: the text is a Go template over .Values, .Recipe and .Family"`
	Mode     string `yaml:"mode" json:"mode,omitempty" doc:"octal permissions, 0644 where left out"`
	Owner    string `yaml:"owner" json:"owner,omitempty" doc:"user[:group] in the image, root where left out"`
}

// User is one user of the image.
type User struct {
	Name    string   `yaml:"name" json:"name" doc:"login name" required:"true"`
	Groups  []string `yaml:"groups" json:"groups,omitempty" doc:"further groups"`
	Shell   string   `yaml:"shell" json:"shell,omitempty" doc:"login shell, /bin/bash where left out"`
	Sudo    bool     `yaml:"sudo" json:"sudo,omitempty" doc:"true: may become root without a password; needs the package sudo"`
	SSHKeys []string `yaml:"ssh_keys" json:"ssh_keys,omitempty" doc:"lines for authorized_keys"`
}

// Script is commands run by /bin/sh inside the image. Exactly one of Run and Source is set.
type Script struct {
	Name   string `yaml:"name" json:"name" doc:"what the log calls it" required:"true"`
	Run    string `yaml:"run" json:"run,omitempty" doc:"the commands"`
	Source string `yaml:"source" json:"source,omitempty" doc:"file in the repository"`
}

// Services are systemd units to switch on or off.
type Services struct {
	Enable  []string `yaml:"enable" json:"enable,omitempty" doc:"units to enable"`
	Disable []string `yaml:"disable" json:"disable,omitempty" doc:"units to disable"`
}

// CloudInit is where cloud-init looks for its data.
type CloudInit struct {
	Datasources []string `yaml:"datasources" json:"datasources,omitempty" doc:"in order, for example [ConfigDrive, OpenStack, NoCloud]"`
}

// Disk is the shape of the disk.
type Disk struct {
	Size       Size        `yaml:"size" json:"size,omitempty" doc:"virtual size, for example 2GiB (the default)"`
	Firmware   string      `yaml:"firmware" json:"firmware,omitempty" doc:"bios (the default), uefi, or both" enum:"bios uefi both"`
	Partitions []Partition `yaml:"partitions" json:"partitions,omitempty" doc:"partitions beside the root, which takes what is left"`
}

// Partition is one partition beside the root.
type Partition struct {
	Label      string `yaml:"label" json:"label" doc:"name in the partition table and of the file system" required:"true"`
	Size       Size   `yaml:"size" json:"size" doc:"for example 1GiB" required:"true"`
	Filesystem string `yaml:"filesystem" json:"filesystem,omitempty" doc:"ext4 (the default) or swap" enum:"ext4 swap"`
	Mount      string `yaml:"mount" json:"mount,omitempty" doc:"where it is mounted, for example /srv; nothing of the system's own"`
}

// Kernel is the kernel and its arguments.
type Kernel struct {
	Package   string `yaml:"package" json:"package,omitempty" doc:"kernel package, linux-image-cloud-amd64 where left out"`
	Arguments string `yaml:"arguments" json:"arguments,omitempty" doc:"added to the kernel's command line"`
}

// Output is what is made of the disk.
type Output struct {
	Format string   `yaml:"format" json:"format,omitempty" doc:"of the VM image: qcow2 (the default) or raw" enum:"qcow2 raw"`
	Also   []string `yaml:"also" json:"also,omitempty" doc:"further artifacts: docker (an archive for Zun), system (a read-only tree), raw, qcow2, vmdk, vhd" enum:"docker system raw qcow2 vmdk vhd"`
}

// Publish is who sees a version.
type Publish struct {
	Visibility string   `yaml:"visibility" json:"visibility,omitempty" doc:"private (the default), shared, community or public" enum:"private shared community public"`
	Members    []string `yaml:"members" json:"members,omitempty" doc:"ids of the projects that a shared image is offered to"`
	Protected  bool     `yaml:"protected" json:"protected,omitempty" doc:"true: Glance refuses to delete it"`
	Channel    string   `yaml:"channel" json:"channel,omitempty" doc:"channel that moves to a new version; candidate where left out"`
}

// Test is commands that must succeed in the booted image. Exactly one of Run and Source is set.
type Test struct {
	Name    string `yaml:"name" json:"name" doc:"what the log calls it" required:"true"`
	Run     string `yaml:"run" json:"run,omitempty" doc:"commands for /bin/sh -e, as root"`
	Source  string `yaml:"source" json:"source,omitempty" doc:"file in the repository with the commands"`
	Timeout string `yaml:"timeout" json:"timeout,omitempty" doc:"for example 90s; 5m where left out"`
}

// Triggers say when a recipe is built without being asked for.
type Triggers struct {
	NoPush   bool   `yaml:"no_push" json:"no_push,omitempty" doc:"true: a push that changes the recipe does not build it"`
	Schedule string `yaml:"schedule" json:"schedule,omitempty" doc:"cron expression in UTC, for example \"0 3 * * 1\""`
	Base     bool   `yaml:"base" json:"base,omitempty" doc:"true: build when the channel that from.family names moves"`
	Advisory string `yaml:"advisory" json:"advisory,omitempty" doc:"build when a fix of this urgency or a higher one is published for the newest version: low, medium, high or critical" enum:"low medium high critical"`
}

// Defaults for what a recipe leaves out.
const (
	DefaultSize    = Size(2 << 30)
	DefaultKernel  = "linux-image-cloud-amd64"
	DefaultFormat  = "qcow2"
	DefaultBuilder = "native"
)

// own is the recipe's own steps, in order: packages, users, files, scripts, services, cloud-init, then Steps.
// line tells where the file has a field.
func (r *Recipe) own(line func(field string) int) []Step {
	var out []Step
	add := func(field, name string, s Step) {
		s.Name, s.Recipe, s.Values, s.Where = name, r.Name, r.Values, errs.Where{File: r.Path, Line: line(field), Field: field}
		out = append(out, s)
	}
	if len(r.Packages) > 0 {
		add("packages", "packages", Step{Kind: StepPackages, Packages: r.Packages})
	}
	if len(r.Users) > 0 {
		add("users", "users", Step{Kind: StepUsers, Users: r.Users})
	}
	if len(r.Files) > 0 {
		add("files", "files", Step{Kind: StepFiles, Files: r.Files})
	}
	for i, s := range r.Scripts {
		add(fmt.Sprintf("scripts[%d]", i), s.Name, Step{Kind: StepScript, Run: s.Run, Source: s.Source})
	}
	if !r.Services.empty() {
		add("services", "services", Step{Kind: StepServices, Services: r.Services})
	}
	if len(r.CloudInit.Datasources) > 0 {
		add("cloud_init", "cloud-init", Step{Kind: StepCloudInit, Datasources: r.CloudInit.Datasources})
	}
	for i, s := range r.Steps {
		s.Kind = s.kind()
		name := s.Name
		if name == "" {
			name = fmt.Sprintf("%s %d", s.Kind, i+1)
		}
		add(fmt.Sprintf("steps[%d]", i), name, s)
	}
	return out
}

func (s Services) empty() bool { return len(s.Enable)+len(s.Disable) == 0 }

// kind tells which part of a written step is given; "" for none or several.
func (s Step) kind() StepKind {
	var kinds []StepKind
	if len(s.Packages) > 0 {
		kinds = append(kinds, StepPackages)
	}
	if len(s.Users) > 0 {
		kinds = append(kinds, StepUsers)
	}
	if len(s.Files) > 0 {
		kinds = append(kinds, StepFiles)
	}
	if s.Run != "" || s.Source != "" {
		kinds = append(kinds, StepScript)
	}
	if !s.Services.empty() {
		kinds = append(kinds, StepServices)
	}
	if len(kinds) != 1 {
		return ""
	}
	return kinds[0]
}
