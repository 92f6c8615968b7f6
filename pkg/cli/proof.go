package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/diff"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/proof"
)

// imageNamed finds Glance's id of IMAGE_ID, FAMILY (its channel stable, or else candidate) or FAMILY/VERSION, where the version
// may be a channel. label is "<family>/<version>"; "" where the user gave an id.
func imageNamed(ctx context.Context, c *client.Client, name string) (id, label string, err error) {
	if _, err := uuid.Parse(name); err == nil {
		return name, "", nil
	}
	family, which, _ := strings.Cut(name, "/")
	var f catalog.Family
	if err := c.Get(ctx, "/v1/families/"+url.PathEscape(family), &f); err != nil {
		return "", "", fmt.Errorf("%s: %w", family, err)
	}
	version := f.Channels[which]
	switch {
	case version != "":
	case which != "":
		version = which
	case f.Channels[catalog.Stable] != "":
		version = f.Channels[catalog.Stable]
	default:
		version = f.Channels[catalog.Candidate]
	}
	if version == "" {
		return "", "", fmt.Errorf("family %s has no version yet", family)
	}
	var v catalog.Version
	err = c.Get(ctx, "/v1/families/"+url.PathEscape(family)+"/versions/"+url.PathEscape(version), &v)
	return v.ImageID, family + "/" + version, err
}

const imageArg = "IMAGE_ID|FAMILY[/VERSION]"

func documentPath(id, kind string) string {
	path := "/v1/images/" + url.PathEscape(id) + "/documents"
	if kind != "" {
		path += "/" + url.PathEscape(kind)
	}
	return path
}

// document reads one document of an image named by the user.
func (a *app) document(ctx context.Context, name, kind string) ([]byte, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	id, _, err := imageNamed(ctx, c, name)
	if err != nil {
		return nil, err
	}
	return c.Raw(ctx, documentPath(id, kind), proof.MaxDocument)
}

func (a *app) documents() *cobra.Command {
	return &cobra.Command{Use: "documents " + imageArg + " [KIND]", Short: "List the documents of an image, or write one of them", Args: cobra.RangeArgs(1, 2), RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) == 2 {
			text, err := a.document(cmd.Context(), args[0], args[1])
			if err == nil {
				_, err = a.out.Write(text)
			}
			return err
		}
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		id, _, err := imageNamed(cmd.Context(), c, args[0])
		if err != nil {
			return err
		}
		rows, err := client.ListAt[row](cmd.Context(), c, documentPath(id, ""), "documents", nil)
		if err != nil {
			return err
		}
		return a.print(rows, []string{"kind", "size", "media_type", "sha256"})
	}}
}

func (a *app) sbom() *cobra.Command {
	var format string
	cmd := &cobra.Command{Use: "sbom " + imageArg, Short: "Write the bill of materials of an image", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		if format != proof.KindCycloneDX && format != proof.KindSPDX {
			return fmt.Errorf("unknown format %q: use %s or %s", format, proof.KindCycloneDX, proof.KindSPDX)
		}
		text, err := a.document(cmd.Context(), args[0], format)
		if err == nil {
			_, err = a.out.Write(text)
		}
		return err
	}}
	cmd.Flags().StringVarP(&format, "format", "f", proof.KindCycloneDX, "cyclonedx or spdx")
	return cmd
}

func (a *app) provenance() *cobra.Command {
	var raw bool
	cmd := &cobra.Command{Use: "provenance " + imageArg, Short: "Write the statement of how an image was made; kiln image verify checks it", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		envelope, err := a.document(cmd.Context(), args[0], proof.KindProvenance)
		if err != nil {
			return err
		}
		if raw {
			_, err = a.out.Write(envelope)
			return err
		}
		var e struct{ Payload string }
		if err := json.Unmarshal(envelope, &e); err != nil {
			return err
		}
		payload, err := base64.StdEncoding.DecodeString(e.Payload)
		if err != nil {
			return err
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, payload, "", "  "); err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.out, pretty.String())
		return err
	}}
	cmd.Flags().BoolVar(&raw, "envelope", false, "write the signed envelope as it is, for other tools")
	return cmd
}

func (a *app) diff() *cobra.Command {
	var format string
	cmd := &cobra.Command{Use: "diff FAMILY FROM TO | diff IMAGE_ID IMAGE_ID", Short: "Tell what differs between two versions: packages, fixes, services, files, sizes", Args: cobra.RangeArgs(2, 3), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		path := "/v1/images/" + url.PathEscape(args[0]) + "/diff?" + url.Values{"to": {args[1]}}.Encode()
		if len(args) == 3 {
			path = "/v1/families/" + url.PathEscape(args[0]) + "/diff?" + url.Values{"from": {args[1]}, "to": {args[2]}}.Encode()
		}
		var r diff.Report
		if err := c.Get(cmd.Context(), path, &r); err != nil {
			return err
		}
		switch format {
		case "text", "table":
			_, err = fmt.Fprint(a.out, r.Text())
		case "markdown":
			_, err = fmt.Fprint(a.out, r.Markdown())
		case "json":
			err = a.json(r)
		default:
			err = errors.New("the formats are text, markdown and json")
		}
		return err
	}}
	cmd.Flags().StringVarP(&format, "format", "f", "text", "text, markdown or json")
	return cmd
}
