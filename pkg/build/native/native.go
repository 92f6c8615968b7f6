// Package native builds bootable Debian images on this machine, without a virtual machine.
//
// apt on this machine reads the signed lists, resolves and fetches; what runs code of the image (maintainer scripts,
// scripts of the recipe) runs in pkg/sandbox, whose only network is the package mirror. The tree lives in the final
// file system from the start, so that nothing is copied.
//
// A build is a row of stages: the base, the steps of the recipe's plan, the finish. The disk after each stage is a
// layer (pkg/build/layer) whose key is the digest of all that went into it, so a stage whose key is there already is
// not run, and a build that broke off goes on where it ended.
package native

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/layer"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Codes of the errors of a native build.
const (
	CodeBootstrap = "kiln.build.bootstrap"  // the base could not be fetched or unpacked
	CodeBase      = "kiln.build.base"       // the image that the recipe stands on cannot be used
	CodePackages  = "kiln.build.packages"   // a package does not exist or does not install
	CodeFile      = "kiln.build.file"       // a file of the recipe cannot be laid
	CodeUser      = "kiln.build.user"       // a user cannot be made
	CodeScript    = "kiln.build.script"     // a script of the recipe failed
	CodeService   = "kiln.build.service"    // a unit cannot be switched
	CodeCloudInit = "kiln.build.cloud_init" // cloud-init cannot be told where to ask
	CodeBoot      = "kiln.build.boot"       // the image cannot be made bootable
	CodeDiskSize  = "kiln.build.disk_size"  // disk.size is too small for what the recipe installs
	CodeCancelled = "kiln.build.cancelled"  // the context ended
	CodeHost      = "kiln.build.host"       // this host lacks something
	CodeMirror    = "kiln.build.mirror"     // the package mirror does not answer, breaks off or is not signed
)

// formatVersion is part of every key: raise it when the same recipe would give another image.
const formatVersion = "native 4"

// Config is what a Builder needs. Zero fields take the default.
type Config struct {
	Mirrors deb.Mirrors        // where packages come from, and what the image's apt sources name; default deb.MachineMirrors
	Proxy   *mirror.Proxy      // must serve Mirrors.Main
	Keyring string             // default /usr/share/keyrings/debian-archive-keyring.gpg
	Client  *http.Client       // asks for the signed index; default with a 30 s deadline
	Log     logrus.FieldLogger // default: none
	Layers  layer.Config       // the results of steps; Dir is needed
	// ArchiveDir keeps the packages of locked recipes for ever; default a folder beside the layers.
	ArchiveDir string
	StepTime   time.Duration // after which one command in the image is stopped; default 30 minutes
	Backoff    time.Duration // before the first new try with a mirror that failed, growing fourfold; default 2 s
}

// Builder implements build.Builder. It is safe for several builds at the same time.
type Builder struct {
	cfg    Config
	layers *layer.Store
}

var _ build.Builder = (*Builder)(nil)

// New makes a Builder. errs.NotFound where the machine's apt knows no Debian mirror and Mirrors is empty.
func New(cfg Config) (*Builder, error) {
	if cfg.Proxy == nil || cfg.Layers.Dir == "" {
		return nil, errs.New(errs.Invalid, CodeHost, "The native builder needs a mirror proxy and a folder for layers.")
	}
	if cfg.Mirrors.Main == "" {
		m, err := deb.MachineMirrors()
		if err != nil {
			return nil, err
		}
		cfg.Mirrors = m
	}
	if cfg.Mirrors.Security == "" {
		cfg.Mirrors.Security = cfg.Mirrors.Main
	}
	if cfg.Keyring == "" {
		cfg.Keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: 30 * time.Second}
	}
	if cfg.Log == nil {
		cfg.Log = log.Discard()
	}
	if cfg.ArchiveDir == "" {
		cfg.ArchiveDir = filepath.Join(cfg.Layers.Dir, "archive")
	}
	if cfg.StepTime <= 0 {
		cfg.StepTime = 30 * time.Minute
	}
	if cfg.Backoff <= 0 {
		cfg.Backoff = 2 * time.Second
	}
	if cfg.Layers.Log == nil {
		cfg.Layers.Log = cfg.Log
	}
	layers, err := layer.Open(cfg.Layers)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(repositories(cfg), 0o755); err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeHost, "The folder of the package lists cannot be made.")
	}
	return &Builder{cfg: cfg, layers: layers}, nil
}

// Name is "native".
func (b *Builder) Name() string { return "native" }

// Layers is the store of the steps' results.
func (b *Builder) Layers() *layer.Store { return b.layers }

func withDefaults(in *recipe.Recipe) recipe.Recipe {
	r := *in
	if r.Disk.Size == 0 {
		r.Disk.Size = recipe.DefaultSize
	}
	if r.Kernel.Package == "" {
		r.Kernel.Package = recipe.DefaultKernel
	}
	if r.Output.Format == "" {
		r.Output.Format = recipe.DefaultFormat
	}
	return r
}

// quote makes one word of the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
