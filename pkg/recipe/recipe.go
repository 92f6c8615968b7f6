// Package recipe is how one image is made: a YAML file in a git repository. It parses strictly, names the
// file, line and field of every fault, and resolves `from` inside one repository.
package recipe

import (
	"io/fs"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

// Files is the repository at one commit. It must refuse paths that leave it (os.Root.FS does).
type Files = fs.FS

// Recipe is one recipe file, or, after Set.Resolve, one with all that it stands on laid under it.
type Recipe struct {
	Name        string             `yaml:"name" json:"name" doc:"name of the recipe; unique in its repository" required:"true"`
	Family      catalog.FamilyName `yaml:"family" json:"family" doc:"family that the built versions belong to; the recipe's name where left out"`
	Description string             `yaml:"description" json:"description,omitempty" doc:"one sentence for people"`
	From        From               `yaml:"from" json:"from" doc:"what the image stands on" required:"true"`
	Packages    []string           `yaml:"packages" json:"packages,omitempty" doc:"Debian packages to install"`
	Files       []File             `yaml:"files" json:"files,omitempty" doc:"files to lay into the image"`
	Users       []User             `yaml:"users" json:"users,omitempty" doc:"users to make"`
	Scripts     []Script           `yaml:"scripts" json:"scripts,omitempty" doc:"commands to run inside the image, in order, without network"`
	Services    Services           `yaml:"services" json:"services" doc:"systemd units to switch on or off"`
	Disk        Disk               `yaml:"disk" json:"disk" doc:"the disk"`
	Kernel      Kernel             `yaml:"kernel" json:"kernel" doc:"the kernel"`
	Output      Output             `yaml:"output" json:"output" doc:"what is published"`
	Properties  map[string]string  `yaml:"properties" json:"properties,omitempty" doc:"Glance image properties"`

	// Path is the file that the recipe was read from, relative to the repository.
	Path string `yaml:"-" json:"path"`
}

// From is what an image stands on: a Debian release, or another recipe of the same repository.
type From struct {
	Release string `yaml:"release" json:"release,omitempty" doc:"Debian release, for example bookworm"`
	Recipe  string `yaml:"recipe" json:"recipe,omitempty" doc:"name of another recipe of the repository"`
}

// File is one file laid into the image. Exactly one of Content and Source is set.
type File struct {
	Path    string `yaml:"path" json:"path" doc:"absolute path in the image" required:"true"`
	Content string `yaml:"content" json:"content,omitempty" doc:"the file's text"`
	Source  string `yaml:"source" json:"source,omitempty" doc:"file in the repository, relative to its root"`
	Mode    string `yaml:"mode" json:"mode,omitempty" doc:"octal permissions, 0644 where left out"`
	Owner   string `yaml:"owner" json:"owner,omitempty" doc:"user[:group] in the image, root where left out"`
}

// User is one user of the image.
type User struct {
	Name    string   `yaml:"name" json:"name" doc:"login name" required:"true"`
	Groups  []string `yaml:"groups" json:"groups,omitempty" doc:"further groups"`
	Shell   string   `yaml:"shell" json:"shell,omitempty" doc:"login shell, /bin/bash where left out"`
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

// Disk is the shape of the disk.
type Disk struct {
	Size Size `yaml:"size" json:"size,omitempty" doc:"virtual size, for example 2GiB (the default)"`
}

// Kernel is the kernel and its arguments.
type Kernel struct {
	Package   string `yaml:"package" json:"package,omitempty" doc:"kernel package, linux-image-cloud-amd64 where left out"`
	Arguments string `yaml:"arguments" json:"arguments,omitempty" doc:"added to the kernel's command line"`
}

// Output is what is published.
type Output struct {
	Format     string `yaml:"format" json:"format,omitempty" doc:"qcow2 (the default) or raw"`
	Visibility string `yaml:"visibility" json:"visibility,omitempty" doc:"private (the default), shared, community or public"`
}

// Defaults for what a recipe leaves out.
const (
	DefaultSize   = Size(2 << 30)
	DefaultKernel = "linux-image-cloud-amd64"
	DefaultFormat = "qcow2"
)
