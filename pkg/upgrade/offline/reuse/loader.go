package reuse

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"path"
	"strings"
)

// The loader's cache as glibc has it since 2.32 (sysdeps/generic/dl-cache.h: struct cache_file_new): a header, entries
// sorted by name, strings.
const (
	cacheMagic  = "glibc-ld.so.cache1.1"
	cacheHeader = 48
	cacheEntry  = 24
)

// libraries is the checksum of what the cache answers for these names of libraries. ok is false where the cache is of
// another form than ldconfig gives it: then the loader might read it in another way than we do, and all of it counts.
//
// No other name counts: whatever the loader finds for a name, or does not find, it opens files of that name (each entry
// leads to a file called as it is), so every name that was looked up is the last part of a path that was opened.
func libraries(text []byte, names map[string]bool) (sum string, ok bool) {
	if len(text) < cacheHeader || string(text[:len(cacheMagic)]) != cacheMagic {
		return "", false
	}
	n := int(binary.LittleEndian.Uint32(text[20:]))
	if n < 0 || n > (len(text)-cacheHeader)/cacheEntry {
		return "", false
	}
	h := sha256.New()
	last := ""
	for i := range n {
		e := text[cacheHeader+i*cacheEntry:]
		flags, osVersion, hwcap := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[12:]), binary.LittleEndian.Uint64(e[16:])
		key, okKey := cString(text, binary.LittleEndian.Uint32(e[4:]))
		value, okValue := cString(text, binary.LittleEndian.Uint32(e[8:]))
		plain, okPlain := plainLibrary(key)
		// Out of order, the loader's binary search finds something else than a walk does.
		if !okKey || !okValue || !okPlain || path.Base(value) != key || !path.IsAbs(value) || i > 0 && compareLibraries(last, plain) < 0 {
			return "", false
		}
		last = plain
		if !names[plain] {
			continue
		}
		if hwcap != 0 {
			return "", false // for some processors only: what that means is in another part of the file
		}
		fmt.Fprintf(h, "%q %q %d %d\n", key, value, flags, osVersion) //nolint:errcheck // a hash
	}
	return hex.EncodeToString(h.Sum(nil)), true
}

func cString(text []byte, at uint32) (string, bool) {
	if int64(at) >= int64(len(text)) {
		return "", false
	}
	s, _, ok := strings.Cut(string(text[at:min(int64(len(text)), int64(at)+4096)]), "\x00")
	return s, ok
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// plainLibrary gives names that the loader takes for equal (its numbers are compared as numbers) the same spelling.
func plainLibrary(name string) (string, bool) {
	var out strings.Builder
	for i := 0; i < len(name); {
		if name[i] >= 0x80 {
			return "", false // above or below all others, by the processor
		}
		if !digit(name[i]) {
			out.WriteByte(name[i])
			i++
			continue
		}
		end := i
		for end < len(name) && digit(name[end]) {
			end++
		}
		number := strings.TrimLeft(name[i:end], "0")
		if len(number) > 9 {
			return "", false // the loader's own arithmetic overflows
		}
		out.WriteString(cmp.Or(number, "0"))
		i = end
	}
	return out.String(), true
}

// compareLibraries is glibc's _dl_cache_libcmp for names in plain spelling.
func compareLibraries(a, b string) int {
	for a != "" && b != "" {
		if digit(a[0]) && digit(b[0]) {
			x, y := numberIn(&a), numberIn(&b)
			if x != y {
				return cmp.Compare(x, y)
			}
			continue
		}
		switch {
		case digit(a[0]):
			return 1
		case digit(b[0]):
			return -1
		case a[0] != b[0]:
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func numberIn(s *string) int {
	n, i := 0, 0
	for ; i < len(*s) && digit((*s)[i]); i++ {
		n = n*10 + int((*s)[i]-'0')
	}
	*s = (*s)[i:]
	return n
}
