package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	gopenstack "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/demo"
	"github.com/kiln-cloud/kiln/pkg/proof"
)

// downloadTime bounds the download of an image.
const downloadTime = 4 * time.Hour

// verifying is what one check needs.
type verifying struct {
	app     *app
	api     *client.Client
	glance  *gophercloud.ServiceClient
	id      string
	version string // "<family>/<version>" where the user named it so
	file    string // a disk on this machine; "" downloads Glance's
	key     string // a file of keys; "" asks the API
	notes   io.Writer
}

func (a *app) verify() *cobra.Command {
	v := verifying{app: a, notes: os.Stderr}
	cmd := &cobra.Command{
		Use: "verify " + imageArg, Short: "Check an image, byte for byte, against the signed statement of how it was made", Args: cobra.ExactArgs(1),
		Long: "Check an image, byte for byte, against the signed statement of how it was made.\n\n" +
			"The signature is checked with --key, or with the keys that the API names: then you trust the API. The image is downloaded from Glance,\n" +
			"or is the one in --file. The bills of materials and the properties in Glance are checked, too. Every check is a line; exit status 1 where one does not hold.",
		RunE: func(cmd *cobra.Command, args []string) error {
			provider, endpoints, err := a.login(cmd.Context())
			if err != nil {
				return err
			}
			if v.api, err = a.api(provider, endpoints); err != nil {
				return err
			}
			if v.glance, err = gopenstack.NewImageV2(provider, endpoints); err != nil {
				return err
			}
			if v.id, v.version, err = imageNamed(cmd.Context(), v.api, args[0]); err != nil {
				return err
			}
			return v.run(cmd.Context())
		}}
	cmd.Flags().StringVar(&v.file, "file", "", "disk on this machine; Glance's is downloaded where left out")
	cmd.Flags().StringVar(&v.key, "key", "", "PEM file of the public keys that you trust; those of the API where left out")
	return cmd
}

func (v *verifying) run(ctx context.Context) error {
	e, err := v.evidence(ctx)
	if err != nil {
		return err
	}
	findings, st := proof.Verify(ctx, e)
	if v.app.format == "json" {
		err = v.app.json(map[string]any{"image_id": v.id, "holds": proof.Holds(findings), "findings": findings, "statement": st})
	} else {
		err = v.tell(findings, st)
	}
	if err != nil {
		return err
	}
	var bad []string
	for _, f := range findings {
		if !f.Holds {
			bad = append(bad, f.What)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("image %s does not hold: %s", v.id, strings.Join(bad, ", "))
	}
	return nil
}

func (v *verifying) tell(findings []proof.Finding, st *proof.Statement) error {
	for _, f := range findings {
		word := "ok    "
		if !f.Holds {
			word = "FAILED"
		}
		if _, err := fmt.Fprintf(v.app.out, "%s  %-31s %s\n", word, f.What, f.Detail); err != nil {
			return err
		}
	}
	if st == nil || !proof.Holds(findings) {
		return nil
	}
	def, run := st.Predicate.BuildDefinition, st.Predicate.RunDetails
	from := "image " + def.ExternalParameters.Image
	if s := def.ExternalParameters.Source; s != nil {
		from = "commit " + s.Commit + " of " + s.URI
	}
	_, err := fmt.Fprintf(v.app.out, "image %s is %s %s, made from %s by %s at %s; inputs: %d\n", v.id, def.InternalParameters.Family, def.InternalParameters.Version,
		from, run.Builder.ID, run.Metadata.FinishedOn.Format("2006-01-02 15:04:05"), len(def.ResolvedDependencies))
	return err
}

// evidence brings everything together. What is not there is left out: Verify finds it missing.
func (v *verifying) evidence(ctx context.Context) (proof.Evidence, error) {
	e := proof.Evidence{ImageID: v.id, Version: v.version, Documents: map[string][]byte{}}
	var err error
	if e.Keys, err = v.keys(ctx); err != nil {
		return e, err
	}
	var list struct{ Documents []proof.Document }
	if err := v.api.Get(ctx, documentPath(v.id, ""), &list); err != nil {
		return e, err
	}
	for _, d := range list.Documents {
		text, err := v.api.Raw(ctx, documentPath(v.id, d.Kind), proof.MaxDocument)
		if err != nil {
			return e, err
		}
		if d.Kind == proof.KindProvenance {
			e.Envelope = text
			continue
		}
		e.Documents[d.Kind] = text
	}
	if len(e.Envelope) == 0 {
		return e, nil // nothing that follows can hold
	}
	return e, v.image(ctx, &e)
}

// keys are those that the user trusts, or that the API names.
func (v *verifying) keys(ctx context.Context) ([]proof.Key, error) {
	if v.key != "" {
		return proof.LoadKeys(v.key)
	}
	var out struct{ Keys []proof.Key }
	if err := v.api.Get(ctx, "/v1/proof/keys", &out); err != nil {
		return nil, err
	}
	var keys []proof.Key
	for _, k := range out.Keys {
		found, err := proof.ParseKeys([]byte(k.PEM))
		if err != nil {
			return nil, err
		}
		keys = append(keys, found...)
	}
	fmt.Fprintf(v.notes, "the keys of the API at %s are used (%d); --key checks with one that you got another way\n", v.api.Endpoint, len(keys)) //nolint:errcheck // standard error
	return keys, nil
}

// image reads Glance's record and hashes the bytes.
func (v *verifying) image(ctx context.Context, e *proof.Evidence) error {
	ctx, cancel := context.WithTimeout(ctx, downloadTime)
	defer cancel()
	g, err := images.Get(ctx, v.glance, v.id).Extract()
	switch {
	case err != nil && (v.file == "" || !gophercloud.ResponseCodeIs(err, http.StatusNotFound)):
		return fmt.Errorf("image %s in Glance: %w", v.id, err)
	case err == nil:
		e.Properties = map[string]string{}
		for name, value := range g.Properties {
			if text, ok := value.(string); ok {
				e.Properties[name] = text
			}
		}
		algorithm, hash := e.Properties["os_hash_algo"], e.Properties["os_hash_value"]
		if algorithm != "" && hash != "" {
			e.GlanceHash = algorithm + ":" + hash
		}
	}
	body, size, err := v.open(ctx, g)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // only read
	m := &meter{r: body, total: size, screen: demo.NewScreen(v.notes)}
	m.screen.Begin("reading the image")
	if e.Image, _, err = proof.DigestsOf(ctx, m); err != nil {
		m.screen.End("failed")
		return err
	}
	m.screen.End("done")
	return nil
}

func (v *verifying) open(ctx context.Context, g *images.Image) (io.ReadCloser, int64, error) {
	if v.file == "" {
		body, err := imagedata.Download(ctx, v.glance, v.id).Extract()
		if err != nil {
			return nil, 0, fmt.Errorf("the bytes of image %s: %w", v.id, err)
		}
		return body, g.SizeBytes, nil
	}
	f, err := os.Open(v.file)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// meter shows how much was read.
type meter struct {
	r           io.Reader
	done, total int64
	said        int64
	screen      *demo.Screen
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.done += int64(n)
	const mib = 1 << 20
	if m.done-m.said >= 32*mib {
		m.said = m.done
		m.screen.Note("%d of %d MiB", m.done/mib, m.total/mib)
	}
	return n, err
}
