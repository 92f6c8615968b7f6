package proof

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Codes of what a check of an envelope finds. They never change.
const (
	CodeEnvelope  = "kiln.proof.envelope"  // it cannot be read
	CodeSignature = "kiln.proof.signature" // nobody who is trusted signed it
)

// maxEnvelope bounds an envelope, in bytes.
const maxEnvelope = 64 << 20

// Sign puts the statement into a signed envelope (https://github.com/secure-systems-lab/dsse/blob/master/envelope.md).
func (st *Statement) Sign(ctx context.Context, s *Signer) ([]byte, error) {
	payload, err := Canonical(st)
	if err != nil {
		return nil, err
	}
	signer, err := dsse.NewEnvelopeSigner(s)
	if err != nil {
		return nil, err
	}
	e, err := signer.SignPayload(ctx, PayloadType, payload)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeSignature, "the statement cannot be signed")
	}
	return Canonical(e)
}

// OpenEnvelope checks that one of the keys signed the envelope, and gives what it says and whose the signature is. errs.Invalid where
// it is damaged or signed by somebody else; the detail says which.
func OpenEnvelope(ctx context.Context, envelope []byte, keys []Key) (*Statement, Key, error) {
	e, err := parseEnvelope(envelope)
	if err != nil {
		return nil, Key{}, err
	}
	key, err := signedBy(ctx, e, keys)
	if err != nil {
		return nil, Key{}, err
	}
	payload, err := e.DecodeB64Payload()
	if err != nil {
		return nil, Key{}, badEnvelope(err, "its payload cannot be read")
	}
	var st Statement
	if err := strictly(payload, &st); err != nil {
		return nil, Key{}, badEnvelope(err, "its statement cannot be read")
	}
	if e.PayloadType != PayloadType || st.Type != StatementType || st.PredicateType != PredicateType {
		return nil, Key{}, badEnvelope(nil, "it holds a %s of type %s about %s", e.PayloadType, st.Type, st.PredicateType)
	}
	return &st, key, nil
}

func parseEnvelope(text []byte) (*dsse.Envelope, error) {
	if len(text) > maxEnvelope {
		return nil, badEnvelope(nil, "it has %d bytes", len(text))
	}
	var e dsse.Envelope
	if err := strictly(text, &e); err != nil {
		return nil, badEnvelope(err, "it is no envelope")
	}
	if len(e.Signatures) == 0 || len(e.Signatures) > 16 {
		return nil, badEnvelope(nil, "it has %d signatures", len(e.Signatures))
	}
	return &e, nil
}

func badEnvelope(cause error, format string, args ...any) error {
	err := errs.New(errs.Invalid, CodeEnvelope, "the envelope cannot be used: "+format, args...)
	err.Cause = cause
	return err
}

// signedBy tries the keys one by one: a verifier of several keys would count them together.
func signedBy(ctx context.Context, e *dsse.Envelope, keys []Key) (Key, error) {
	for _, k := range keys {
		v, err := dsse.NewEnvelopeVerifier(verifier{k})
		if err != nil {
			return Key{}, err
		}
		if _, err := v.Verify(ctx, e); err == nil {
			return k, nil
		}
	}
	var names []string
	for _, s := range e.Signatures {
		names = append(names, short(s.KeyID))
	}
	known := slices.ContainsFunc(keys, func(k Key) bool {
		return slices.ContainsFunc(e.Signatures, func(s dsse.Signature) bool { return s.KeyID == k.ID })
	})
	switch {
	case len(keys) == 0:
		return Key{}, errs.New(errs.Invalid, CodeSignature, "there is no trusted key to check the signature with")
	case known:
		return Key{}, errs.New(errs.Invalid, CodeSignature, "the signature by key %s does not fit the statement: one of them was changed", strings.Join(names, ", "))
	}
	return Key{}, errs.New(errs.Invalid, CodeSignature, "the statement is signed by key %s, which is not among the %d trusted ones", strings.Join(names, ", "), len(keys))
}

func short(id string) string {
	if id == "" {
		return "without a name"
	}
	return id[:min(16, len(id))]
}

// strictly reads one JSON value without unknown fields and with nothing behind it: what is not understood is not vouched for.
func strictly(text []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errs.New(errs.Invalid, CodeEnvelope, "something follows its end")
	}
	return nil
}
