package proof

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// maxKeyFile bounds a file of keys, in bytes.
const maxKeyFile = 64 << 10

// Key is a public key that statements are checked with: Ed25519, or ECDSA on P-256.
type Key struct {
	ID     string `json:"key_id"` // sha256 of its PKIX form, hex
	Type   string `json:"type"`   // "ed25519" or "ecdsa-p256"
	PEM    string `json:"pem"`
	public crypto.PublicKey
}

// Public is the key itself.
func (k Key) Public() crypto.PublicKey { return k.public }

// Signer signs statements.
type Signer struct {
	Key     Key // its public half
	private crypto.Signer
}

// GenerateKey makes an Ed25519 key. Both are PEM; the private one is PKCS #8.
func GenerateKey() (private, public []byte, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, nil, err
	}
	k, err := newKey(pub)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), []byte(k.PEM), err
}

func newKey(public crypto.PublicKey) (Key, error) {
	var kind string
	switch p := public.(type) {
	case ed25519.PublicKey:
		kind = "ed25519"
	case *ecdsa.PublicKey:
		if p.Curve != elliptic.P256() {
			return Key{}, badKey(nil, "its curve is %s; use P-256", p.Curve.Params().Name)
		}
		kind = "ecdsa-p256"
	default:
		return Key{}, badKey(nil, "%T is neither Ed25519 nor ECDSA", public)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return Key{}, badKey(err, "it cannot be written")
	}
	sum := sha256.Sum256(der)
	return Key{
		ID: hex.EncodeToString(sum[:]), Type: kind, public: public, PEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	}, nil
}

func badKey(cause error, format string, args ...any) error {
	e := errs.New(errs.Invalid, "kiln.proof.key", "the key cannot be used: "+format, args...)
	e.Cause = cause
	return e
}

// ParseSigner reads a private key in PEM (PKCS #8, or SEC 1 for ECDSA).
func ParseSigner(text []byte) (*Signer, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var parsed any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			continue // openssl writes "EC PARAMETERS" before the key
		}
		if err != nil {
			return nil, badKey(err, "its PEM block is damaged")
		}
		private, ok := parsed.(crypto.Signer)
		if !ok {
			return nil, badKey(nil, "%T does not sign", parsed)
		}
		k, err := newKey(private.Public())
		return &Signer{Key: k, private: private}, err
	}
	return nil, badKey(nil, "there is no PEM block of a private key in it")
}

// ParseKeys reads the public keys of a PEM file; of private keys in it the public halves.
func ParseKeys(text []byte) ([]Key, error) {
	var out []Key
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var k Key
		switch block.Type {
		case "PUBLIC KEY":
			public, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return nil, badKey(err, "its PEM block is damaged")
			}
			if k, err = newKey(public); err != nil {
				return nil, err
			}
		case "PRIVATE KEY", "EC PRIVATE KEY":
			s, err := ParseSigner(pem.EncodeToMemory(block))
			if err != nil {
				return nil, err
			}
			k = s.Key
		default:
			continue
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, badKey(nil, "there is no PEM block of a key in it")
	}
	return out, nil
}

// LoadSigner reads the private key in a file. errs.Invalid names the file.
func LoadSigner(path string) (*Signer, error) {
	text, err := keyFile(path)
	if err != nil {
		return nil, err
	}
	s, err := ParseSigner(text)
	return s, inFile(err, path)
}

// LoadKeys reads the public keys in files, each key once.
func LoadKeys(paths ...string) ([]Key, error) {
	var out []Key
	seen := map[string]bool{}
	for _, path := range paths {
		text, err := keyFile(path)
		if err != nil {
			return nil, err
		}
		keys, err := ParseKeys(text)
		if err != nil {
			return nil, inFile(err, path)
		}
		for _, k := range keys {
			if !seen[k.ID] {
				out, seen[k.ID] = append(out, k), true
			}
		}
	}
	return out, nil
}

func keyFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, inFile(errs.Wrap(err, errs.Invalid, "kiln.proof.key", "the key cannot be read"), path)
	}
	if info.Size() > maxKeyFile {
		return nil, inFile(badKey(nil, "the file has %d bytes", info.Size()), path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, inFile(errs.Wrap(err, errs.Invalid, "kiln.proof.key", "the key cannot be read"), path)
	}
	return text, nil
}

func inFile(err error, path string) error {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e.At(errs.Where{File: path})
	}
	return err
}

// Sign implements dsse.Signer: Ed25519 signs the text, ECDSA its SHA-256, as ASN.1.
func (s *Signer) Sign(_ context.Context, data []byte) ([]byte, error) {
	if _, ok := s.private.(ed25519.PrivateKey); ok {
		return s.private.Sign(rand.Reader, data, crypto.Hash(0))
	}
	sum := sha256.Sum256(data)
	return s.private.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// KeyID implements dsse.Signer.
func (s *Signer) KeyID() (string, error) { return s.Key.ID, nil }

// verifier is a key as dsse.Verifier.
type verifier struct{ key Key }

func (v verifier) KeyID() (string, error)   { return v.key.ID, nil }
func (v verifier) Public() crypto.PublicKey { return v.key.public }

var errSignature = errors.New("the signature is not of this key")

func (v verifier) Verify(_ context.Context, data, sig []byte) error {
	good := false
	switch p := v.key.public.(type) {
	case ed25519.PublicKey:
		good = ed25519.Verify(p, data, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(data)
		good = ecdsa.VerifyASN1(p, sum[:], sig)
	}
	if !good {
		return errSignature
	}
	return nil
}
