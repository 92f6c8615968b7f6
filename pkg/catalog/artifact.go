package catalog

import "github.com/kiln-cloud/kiln/pkg/errs"

// DockerFormat is the artifact that Zun starts containers from.
const DockerFormat = "docker"

// ContainerImage is the Glance image that containers of the version start from. errs.Conflict where its build made none.
func (v Version) ContainerImage() (string, error) {
	for _, a := range v.Artifacts {
		if a.Format == DockerFormat {
			return a.ImageID, nil
		}
	}
	return "", errs.New(errs.Conflict, "kiln.version.no_container",
		"version %s of %s has no container image: add docker to output.also of its recipe and build it", v.Name, v.Family)
}
