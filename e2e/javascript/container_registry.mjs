// Walks a repository through its life with the JavaScript SDK, and prints what it saw as JSON.
// Environment: LOGIN_SERVER, ACCESS_TOKEN (of sign-in), AUDIENCE.

import {
  ContainerRegistryClient,
  ContainerRegistryContentClient,
} from "@azure/container-registry";

const endpoint = `https://${process.env.LOGIN_SERVER}`;
const credential = {
  getToken: async () => ({
    token: process.env.ACCESS_TOKEN,
    expiresOnTimestamp: Date.now() + 3_000_000,
  }),
};
const options = { audience: process.env.AUDIENCE };
const repositoryName = "team/from-javascript";

async function collect(pages) {
  const all = [];
  for await (const entry of pages) {
    all.push(entry);
  }
  return all;
}

/** The status and the code of a refusal. */
async function refusal(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return [error.statusCode, JSON.parse(error.message).errors[0].code];
  }
}

const content = new ContainerRegistryContentClient(endpoint, repositoryName, credential, options);
const config = await content.uploadBlob(Buffer.from('{"architecture":"arm64","os":"linux"}'));
const layer = await content.uploadBlob(Buffer.from("a layer from JavaScript"));
const descriptor = (mediaType, blob) => ({
  mediaType,
  digest: blob.digest,
  size: blob.sizeInBytes,
});
const manifest = {
  schemaVersion: 2,
  mediaType: "application/vnd.oci.image.manifest.v1+json",
  config: descriptor("application/vnd.oci.image.config.v1+json", config),
  layers: [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
};
let digest;
for (const tag of ["v1", "v2", "v3"]) {
  ({ digest } = await content.setManifest(manifest, { tag }));
}
const pulled = await content.getManifest("v2");
const blob = await content.downloadBlob(layer.digest);
let downloaded = "";
for await (const piece of blob.content) {
  downloaded += piece;
}

const client = new ContainerRegistryClient(endpoint, credential, options);
const repository = client.getRepository(repositoryName);
const artifact = repository.getArtifact("v1");
const names = async (order) => {
  const tags = await collect(artifact.listTagProperties({ order }));
  return tags.map((tag) => tag.name);
};
const seen = {
  digest,
  pulled: pulled.digest,
  downloaded,
  repositories: await collect(client.listRepositoryNames()),
  repository: await repository.getProperties(),
  manifests: await collect(repository.listManifestProperties()),
  manifest: await artifact.getManifestProperties(),
  oldestFirst: await names("LastUpdatedOnAscending"),
  newestFirst: await names("LastUpdatedOnDescending"),
  pages: [],
};
for await (const page of artifact.listTagProperties().byPage({ maxPageSize: 2 })) {
  seen.pages.push(page.map((tag) => tag.name));
}
seen.locked = await artifact.updateTagProperties("v1", { canWrite: false, canDelete: false });
seen.refusedPush = await refusal(content.setManifest({ ...manifest, annotations: { a: "b" } }, { tag: "v1" }));
seen.refusedDeletion = await refusal(repository.delete());
seen.unlocked = await artifact.updateTagProperties("v1", { canWrite: true, canDelete: true });
await artifact.deleteTag("v3");
seen.left = await names();
await repository.delete();
seen.gone = await refusal(repository.getProperties());
console.log(JSON.stringify(seen));
