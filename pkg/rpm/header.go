package rpm

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"
)

// Package is what rpm's database keeps of an installed package.
type Package struct {
	Name         string
	Version      string // [epoch:]version-release, as Compare takes it
	Architecture string // as rpm names it: x86_64, noarch
	Source       string // name of the source package; Name where the database does not say
	// SourceVersion is [epoch:]version-release of the source package; "" where it is that of the package.
	SourceVersion string
	Vendor        string
	License       string // as the packager wrote it, an expression as a rule
}

// Tags of a header that are read (https://github.com/rpm-software-management/rpm/blob/rpm-4.19.x/include/rpm/rpmtag.h).
const (
	tagName      = 1000
	tagVersion   = 1001
	tagRelease   = 1002
	tagEpoch     = 1003
	tagVendor    = 1011
	tagLicense   = 1014
	tagArch      = 1022
	tagSourceRPM = 1044
)

// Types of values.
const (
	typeInt32  = 4
	typeString = 6
	typeI18N   = 9
)

const (
	maxTags = 0xffff    // of one header, as in rpm
	maxData = 256 << 20 // bytes of one header, as in rpm
	maxWord = 1024      // bytes of one value
)

// parseHeader reads one header as the database keeps it: two counts, the index, the values. false for what is no
// package but lies among them: keys that packages are signed with.
func parseHeader(blob []byte) (p Package, ok bool, err error) {
	if len(blob) < 8 {
		return p, false, corrupt("a header of %d bytes", len(blob))
	}
	tags, size := binary.BigEndian.Uint32(blob), binary.BigEndian.Uint32(blob[4:])
	if tags == 0 || tags > maxTags || size > maxData || uint64(len(blob)) < 8+16*uint64(tags)+uint64(size) {
		return p, false, corrupt("a header with %d tags and %d bytes in %d bytes", tags, size, len(blob))
	}
	index, data := blob[8:8+16*tags], blob[8+16*tags:][:size]
	words := map[uint32]string{}
	for ; len(index) > 0; index = index[16:] {
		tag, kind, at := binary.BigEndian.Uint32(index), binary.BigEndian.Uint32(index[4:]), binary.BigEndian.Uint32(index[8:])
		if !wanted(tag) || words[tag] != "" {
			continue
		}
		if at > size {
			return p, false, corrupt("a value outside of its header")
		}
		switch kind {
		case typeString, typeI18N:
			end := bytes.IndexByte(data[at:min(size, at+maxWord+1)], 0)
			if end < 0 {
				return p, false, corrupt("a value without an end")
			}
			words[tag] = printable(data[at:][:end])
		case typeInt32:
			if size-at < 4 {
				return p, false, corrupt("a value outside of its header")
			}
			words[tag] = strconv.FormatUint(uint64(binary.BigEndian.Uint32(data[at:])), 10)
		}
	}
	return assemble(words)
}

func wanted(tag uint32) bool {
	switch tag {
	case tagName, tagVersion, tagRelease, tagEpoch, tagVendor, tagLicense, tagArch, tagSourceRPM:
		return true
	}
	return false
}

func assemble(words map[uint32]string) (p Package, ok bool, err error) {
	name, version, release := words[tagName], words[tagVersion], words[tagRelease]
	if name == "gpg-pubkey" {
		return p, false, nil
	}
	if name == "" || version == "" || release == "" {
		return p, false, corrupt("a package without a name, version or release (%.100q)", name)
	}
	p = Package{Name: name, Version: version + "-" + release, Architecture: words[tagArch], Source: name, Vendor: words[tagVendor], License: words[tagLicense]}
	source, built := SplitSource(words[tagSourceRPM])
	if source != "" {
		p.Source = source
	}
	epoch := ""
	if e := words[tagEpoch]; e != "" && e != "0" {
		epoch = e + ":" // that of the source too, as a rule: its file's name does not say it
	}
	if built != "" && built != p.Version {
		p.SourceVersion = epoch + built
	}
	p.Version = epoch + p.Version
	return p, true, nil
}

// SplitSource takes the name of a source package's file apart: "bash-5.2.26-1.fc40.src.rpm". Both are empty where it is
// no such name.
func SplitSource(file string) (name, version string) {
	stem, ok := strings.CutSuffix(file, ".src.rpm")
	if !ok {
		stem, ok = strings.CutSuffix(file, ".nosrc.rpm")
	}
	release := strings.LastIndexByte(stem, '-')
	if !ok || release < 1 {
		return "", ""
	}
	at := strings.LastIndexByte(stem[:release], '-')
	if at < 1 {
		return "", ""
	}
	return stem[:at], stem[at+1:]
}

// printable drops what is no text.
func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(b), ""))
}
