package hostdnf

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// PluginsInside is where dnf looks for plugins, where it is told to (WithPlugins).
const PluginsInside = ControlInside + "/plugins"

// WithPlugins is the argument with which dnf loads the plugins in PluginsInside.
const WithPlugins = "--setopt=plugins=1"

// OwnerFiles are where the image's owner says what dnf leaves alone. The first that is there counts.
var OwnerFiles = []string{"etc/dnf/dnf.conf", "etc/yum.conf"}

// Configure writes dnf's configuration: repositories of the operator, and of the image but what its owner keeps. Invalid
// CodeTools where a repository's keys cannot be read.
func (t Tree) Configure(repositories []upgrade.Repository, own map[string]string) error {
	var text strings.Builder
	text.WriteString("[main]\nreposdir=/nonexistent\nvarsdir=/nonexistent\nplugins=0\npluginpath=" + PluginsInside + "\npluginconfpath=/nonexistent\nkeepcache=1\nassumeyes=1\nbest=0\n" +
		"obsoletes=1\ninstall_weak_deps=0\nclean_requirements_on_remove=0\ninstallonly_limit=0\nretries=3\ntimeout=60\nmetadata_expire=3600\n" +
		"cachedir=" + ControlInside + "/cache\nlogdir=" + ControlInside + "/log\nproxy=http://" + sandbox.ProxyAddress + "\n")
	for _, name := range slices.Sorted(maps.Keys(own)) {
		fmt.Fprintf(&text, "%s=%s\n", name, own[name])
	}
	for i, r := range repositories {
		keys, err := os.ReadFile(r.Keys)
		if err != nil {
			return errs.Wrap(err, errs.Invalid, CodeTools, "cannot read the keys of the repository %s", r.ID)
		}
		name := fmt.Sprintf("keys/%d.asc", i)
		if err := os.WriteFile(filepath.Join(t.Control, name), keys, 0o644); err != nil { //nolint:gosec // a name of our own
			return errs.Wrap(err, errs.Internal, CodeTools, "the work folder cannot be filled")
		}
		signed := 1
		if r.Unsigned {
			signed = 0
		}
		// gpgcheck would put the keys into the image: packages are held against them before anything is changed.
		fmt.Fprintf(&text, "[%s]\nname=%[1]s\nbaseurl=%s\ngpgcheck=0\nrepo_gpgcheck=%d\ngpgkey=file://%s/%s\n", r.ID, r.BaseURL, signed, ControlInside, name)
	}
	if err := os.WriteFile(filepath.Join(t.Control, "dnf.conf"), []byte(text.String()), 0o644); err != nil {
		return errs.Wrap(err, errs.Internal, CodeTools, "the work folder cannot be filled")
	}
	return nil
}

// OwnerOptions reads from one of the OwnerFiles which packages stay, and whether documentation is left out, as options for
// Configure. An error says what cannot be followed.
func OwnerOptions(text string) (map[string]string, error) {
	own, kept := mainOptions(text), map[string]string{}
	if excluded := strings.TrimSpace(own["exclude"] + " " + own["excludepkgs"]); excluded != "" {
		if strings.Trim(excluded, ownerWord) != "" {
			return nil, fmt.Errorf("it excludes %.200q, which are no names of packages", excluded)
		}
		kept["excludepkgs"] = excluded
	}
	if strings.Contains(own["tsflags"], "nodocs") {
		kept["tsflags"] = "nodocs"
	}
	return kept, nil
}

// mainOptions reads the section [main]; lines that begin with a space go on with the value before.
func mainOptions(text string) map[string]string {
	own, section, last := map[string]string{}, "", ""
	for line := range strings.Lines(text) {
		words := strings.TrimSpace(line)
		key, value, ok := strings.Cut(words, "=")
		switch {
		case words == "" || words[0] == '#' || words[0] == ';':
		case words[0] == '[':
			section, last = words, ""
		case section != "[main]":
		case line[0] == ' ' || line[0] == '\t':
			if last != "" {
				own[last] += " " + words
			}
		case ok:
			last = strings.TrimSpace(key)
			own[last] = strings.TrimSpace(value)
		}
	}
	return own
}

// ownerWord are the letters of names of packages with wildcards.
const ownerWord = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-+._*?[]!:, "

// maxIndex bounds a repository's repomd.xml, which has a few KB.
const maxIndex = 4 << 20

// TellsSecurity reports whether one of the repositories whose metadata dnf has fetched says which packages are security
// fixes: whether it has an updateinfo.
func (t Tree) TellsSecurity() (bool, error) {
	cache, err := os.OpenRoot(filepath.Join(t.Control, "cache"))
	if err != nil {
		return false, errs.Wrap(err, errs.Internal, CodeTools, "the work folder cannot be read")
	}
	defer func() { _ = cache.Close() }()
	names, err := fs.Glob(cache.FS(), "*/repodata/repomd.xml")
	for _, name := range names {
		told, readErr := hasUpdateinfo(cache, name)
		if err = errors.Join(err, readErr); told {
			return true, nil
		}
	}
	if err != nil {
		return false, errs.Wrap(err, errs.Unavailable, CodeTools, "the metadata of a repository cannot be read")
	}
	return false, nil
}

func hasUpdateinfo(cache *os.Root, name string) (bool, error) {
	info, err := cache.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxIndex {
		return false, errors.Join(err, fmt.Errorf("%s is no index of a repository", name))
	}
	text, err := cache.ReadFile(name)
	if err != nil {
		return false, err
	}
	var index struct {
		Data []struct {
			Type string `xml:"type,attr"`
		} `xml:"data"`
	}
	if err := xml.Unmarshal(text, &index); err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	for _, d := range index.Data {
		if d.Type == "updateinfo" {
			return true, nil
		}
	}
	return false, nil
}
