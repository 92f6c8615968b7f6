package deb

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// DefaultKeyring is where Debian's package debian-archive-keyring puts the archive's keys.
const DefaultKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// maxSkew is how far a repository's clock may be ahead of ours.
const maxSkew = time.Hour

// release is a verified InRelease file.
type release struct {
	suite, codename  string
	date, validUntil time.Time
	byHash           bool
	files            map[string]releaseFile
}

type releaseFile struct {
	sha256 string // hex
	size   int64
}

// readKeyring reads OpenPGP public keys, binary or armored.
func readKeyring(file string) (openpgp.EntityList, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.advisory.keyring_unreadable",
			"cannot read the keyring %s: install debian-archive-keyring or name another one", file)
	}
	read := openpgp.ReadKeyRing
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN PGP")) {
		read = openpgp.ReadArmoredKeyRing
	}
	keys, err := read(bytes.NewReader(data))
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.advisory.keyring_unreadable", "%s holds no OpenPGP keys", file)
	}
	return keys, nil
}

// verifyRelease checks the clear signature of an InRelease and gives what it signs. Text outside the
// signed part is refused: a reader that looked at it would trust what nobody signed.
func verifyRelease(data []byte, keys openpgp.EntityList, now time.Time) ([]byte, error) {
	block, rest := clearsign.Decode(data)
	if block == nil || !bytes.HasPrefix(data, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errs.New(errs.Invalid, "kiln.advisory.release_unsigned", "InRelease is not one clear-signed text")
	}
	if block.ArmoredSignature.Type != "PGP SIGNATURE" && block.ArmoredSignature.Type != openpgp.SignatureType {
		return nil, errs.New(errs.Invalid, "kiln.advisory.release_unsigned", "InRelease carries no signature")
	}
	// One good signature of several is enough: Debian signs with the keys of several releases, and
	// a keyring need not know them all.
	config := &packet.Config{Time: func() time.Time { return now }}
	_, err := openpgp.CheckDetachedSignature(keys, bytes.NewReader(block.Bytes), block.ArmoredSignature.Body, config)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.advisory.release_unsigned",
			"InRelease is not signed by a key of the keyring")
	}
	return block.Plaintext, nil
}

// parseRelease reads the signed text (https://wiki.debian.org/DebianRepository/Format#A.22Release.22_files).
func parseRelease(text []byte) (*release, error) {
	var rel *release
	err := scanParagraphs(bytes.NewReader(text), nil, func(p *paragraph) error {
		if rel != nil {
			return malformed(p.line, "a second paragraph")
		}
		rel = &release{
			suite: p.get("suite"), codename: p.get("codename"), byHash: p.get("acquire-by-hash") == "yes",
			files: map[string]releaseFile{},
		}
		var err error
		if rel.date, err = releaseTime(p, "date"); err != nil {
			return err
		}
		if rel.validUntil, err = releaseTime(p, "valid-until"); err != nil {
			return err
		}
		for line := range strings.SplitSeq(p.get("sha256"), "\n") {
			words := strings.Fields(line)
			if len(words) != 3 {
				continue
			}
			if raw, err := hex.DecodeString(words[0]); err != nil || len(raw) != 32 {
				return malformed(p.fields["sha256"].line, "a SHA256 line without a checksum")
			}
			rel.files[words[2]] = releaseFile{sha256: strings.ToLower(words[0]), size: decimal(words[1])}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if rel == nil {
		return nil, malformed(1, "an empty Release")
	}
	return rel, nil
}

func releaseTime(p *paragraph, name string) (time.Time, error) {
	text := p.get(name)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse("Mon, _2 Jan 2006 15:04:05 MST", text)
	if err != nil {
		return t, malformed(p.fields[name].line, name+" is no date")
	}
	return t, nil
}

// checkFresh refuses a release of another suite, from the future, or past its Valid-Until: all three
// are how an old or wrong list with a good signature is passed off as the current one.
func (r *release) checkFresh(suite string, now time.Time) error {
	if r.suite != suite && r.codename != suite {
		return errs.New(errs.Invalid, "kiln.advisory.release_other",
			"the repository answers with the suite %q (%s) where %q was asked", r.suite, r.codename, suite)
	}
	if r.date.After(now.Add(maxSkew)) {
		return errs.New(errs.Unavailable, "kiln.advisory.release_future",
			"the list of %s was written at %s, which is in the future: check this machine's clock", suite, r.date.Format(time.RFC3339))
	}
	if !r.validUntil.IsZero() && now.After(r.validUntil) {
		return errs.New(errs.Unavailable, "kiln.advisory.release_expired",
			"the list of %s expired at %s: its mirror no longer follows the archive, use another one", suite, r.validUntil.Format(time.RFC3339))
	}
	return nil
}
